"""The bytes of an artifact: checked against its size and digest, and read on from where an answer broke off."""

import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from composerd_client.connection import Connection
from composerd_client.errors import DamagedDownload, RequestFailed, ServerUnreachable
from composerd_client.repeating import Backoff, may_pass
from composerd_client.values import Artifact

if TYPE_CHECKING:
    from composerd_client.transport import Response

_ANSWER_WITHIN = 60.0
"""Seconds for which the server may send nothing."""

_PART = 256 * 1024

_LARGEST_PAGE = 64 * 1024
"""Bytes of the largest page of a proxy that is read for its title."""


async def artifact_parts(connection: Connection, artifact: Artifact) -> AsyncGenerator[bytes, None]:
    """Yield an artifact's bytes in parts, never more than its size.

    If an answer breaks off, or something else answers, the rest is requested for the connection's patience. Raises
    `DamagedDownload` if size or digest do not match.
    """
    digest = hashlib.sha256()
    size = 0
    backoff = Backoff(connection.patience)
    with connection.outages.of(f"download {artifact.name!r}") as outage:
        while True:
            try:
                async with aclosing(_parts_from(connection, artifact, size)) as parts:
                    async for part in parts:
                        digest.update(part)
                        size += len(part)
                        if size > artifact.size:
                            break
                        yield part
                        backoff = Backoff(connection.patience)
                break
            except (ServerUnreachable, RequestFailed) as exc:
                if isinstance(exc, RequestFailed) and not may_pass(exc, None):
                    raise
                if size == artifact.size > 0:
                    break
                await backoff.failed(exc, outage.failed)
    if (size, digest.hexdigest()) != (artifact.size, artifact.sha256):
        raise DamagedDownload(f"{artifact.name} was damaged on the way: received {size} of {artifact.size} bytes")


async def _parts_from(connection: Connection, artifact: Artifact, begin: int) -> AsyncGenerator[bytes, None]:
    """Yield the bytes from a position on."""
    headers = {"Range": f"bytes={begin}-", "If-Range": f'"{artifact.sha256}"'} if begin else {}
    async with connection.transport.open(
        "GET", artifact.href, headers=headers, answer_within=_ANSWER_WITHIN
    ) as response:
        problem = _problem(response, artifact, begin)
        if problem is not None:
            raise response.refused(problem, await response.read(_LARGEST_PAGE) or b"")
        skip = begin if response.status == 200 else 0
        async for part in response.parts(_PART):
            if skip < len(part):
                yield part[skip:]
            skip = max(0, skip - len(part))


def _problem(response: "Response", artifact: Artifact, begin: int) -> str | None:
    """Return why an answer does not have the artifact's bytes from a position on, or None if it seems to have them."""
    left = artifact.size - begin
    if response.status == 206 and begin:
        if response.headers.get("Content-Range") != f"bytes {begin}-{artifact.size - 1}/{artifact.size}":
            return "it has another part of the file than was requested"
    elif response.status == 200:
        left = artifact.size
    else:
        return "composerd does not answer a download with this status"
    etag = response.headers.get("ETag", "").removeprefix("W/").strip('"')
    if etag and etag != artifact.sha256:
        return f"it has another file: its ETag is {etag[:70]!r}"
    length = response.headers.get("Content-Length", "")
    return None if length in ("", str(left)) else f"it has {length[:20]} bytes instead of {left}"
