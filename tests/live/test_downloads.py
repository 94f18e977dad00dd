"""Downloads with conditions and parts, and the names under which real clients save them."""

import asyncio
import hashlib
import os
import subprocess
from datetime import datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..throwaway import Throwaway
from .conftest import Serve, Server, error, send

DATA = b"0123456789"
TAG = f'"{hashlib.sha256(DATA).hexdigest()}"'


async def finished(server: Server, *names: str) -> dict[str, Any]:
    """Return a finished job that has artifacts of these names."""
    job = await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    for name in names:
        assert (await send(server, "PUT", attempt["artifact_location"] + quote(name, safe=""), DATA))[0] == 200
    assert (await server.finish(attempt))[0] == 200
    return await server.job(job["id"])


async def test_last_modified(serve: Serve, newest_postgres: Throwaway, tmp_path: Path) -> None:
    """`Last-Modified` is the job's end in whole seconds, on every driver."""
    for storage in (None, "memory:", newest_postgres.fresh()):
        server = await serve("--artifacts", str(tmp_path / "files"), storage=storage)
        job = await finished(server, "a")
        end = datetime.fromisoformat(job["finished_at"]).replace(microsecond=0)
        for method in ("GET", "HEAD"):
            _, headers, _ = await send(server, method, f"{job['href']}/artifacts/a")
            assert parsedate_to_datetime(headers["Last-Modified"]) == end


async def test_conditions(server: Server) -> None:
    """The conditions of a request are looked at in the order of RFC 9110, and every answer has the validators."""
    job = await finished(server, "a")
    path = f"{job['href']}/artifacts/a"
    _, plain, _ = await send(server, "GET", path)
    at = parsedate_to_datetime(plain["Last-Modified"])
    same, before, after = (format_datetime(at + timedelta(seconds=n), usegmt=True) for n in (0, -1, 1))
    for headers, status in (
        ({"If_Match": TAG}, 200),
        ({"If_Match": "*"}, 200),
        ({"If_Match": f'"other", {TAG}'}, 200),
        ({"If_Match": '"other"'}, 412),
        ({"If_Match": f"W/{TAG}"}, 412),
        ({"If_Match": TAG, "If_Unmodified_Since": before}, 200),
        ({"If_Match": '"other"', "If_Unmodified_Since": after}, 412),
        ({"If_Match": '"other"', "If_None_Match": TAG}, 412),
        ({"If_Unmodified_Since": same}, 200),
        ({"If_Unmodified_Since": before}, 412),
        ({"If_Unmodified_Since": "yesterday"}, 200),
        ({"If_None_Match": TAG}, 304),
        ({"If_None_Match": f"W/{TAG}"}, 304),
        ({"If_None_Match": "*"}, 304),
        ({"If_None_Match": '"other"', "If_Modified_Since": after}, 200),
        ({"If_Modified_Since": same}, 304),
        ({"If_Modified_Since": before}, 200),
        ({"If_Match": TAG, "If_None_Match": TAG}, 304),
        ({"If_Match": TAG, "Range": "bytes=1-2"}, 206),
        ({"If_None_Match": TAG, "Range": "bytes=1-2"}, 304),
        ({"If_Match": '"other"', "Range": "bytes=50-"}, 412),
        ({"If_Range": TAG, "Range": "bytes=1-2"}, 206),
        ({"If_Range": f"W/{TAG}", "Range": "bytes=1-2"}, 200),
        ({"If_Range": same, "Range": "bytes=1-2"}, 206),
        ({"If_Range": after, "Range": "bytes=1-2"}, 200),
        ({"If_Range": before, "Range": "bytes=1-2"}, 200),
        ({"Range": "bytes=50-"}, 416),
    ):
        answered, got, body = await send(server, "GET", path, **headers)
        assert (answered, got["ETag"], got["Last-Modified"]) == (status, TAG, same), headers
        assert got["Cache-Control"] == ("private, no-cache" if status < 400 else "no-store"), headers
        assert ("Content-Range" in got) == (status in (206, 416)), headers
        if status < 400:
            assert body == {200: DATA, 206: DATA[1:3], 304: b""}[status], headers
            assert got["Content-Disposition"].startswith("attachment; "), headers
        if "Range" not in headers:
            assert (await send(server, "HEAD", path, **headers))[::2] == (status, b""), headers
    assert (await error(server, "GET", path, If_Match='"other"')) == (
        412,
        43,
        {"field": "If-Match", "problem": "the file has another ETag"},
    )
    assert (await error(server, "GET", path + "b", If_Match="*"))[:2] == (404, 35)


NAMES = {
    "disk.img": "disk.img",
    "a b": "a b",
    "é": "_",
    "日本語.txt": "___.txt",
    "a%2Fb": "a_2Fb",
    'a"b': "a_b",
    "a;b=c": "a;b=c",
    "it's": "it's",
    "-rf": "-rf",
    "$(id)": "$(id)",
    "100%": "100_",
}
"""The names of artifacts, and those in plain ASCII."""


def saved_by(directory: Path, *command: str) -> list[str]:
    """Return the names of the files that a command has saved in a new directory."""
    directory.mkdir()
    subprocess.run(command, cwd=directory, env={**os.environ, "LC_ALL": "C.UTF-8"}, check=True, timeout=60)
    saved = list(directory.iterdir())
    assert [file.read_bytes() for file in saved] == [DATA]
    return [file.name for file in saved]


async def test_names_of_downloads(server: Server, tmp_path: Path) -> None:
    """curl, which reads only `filename`, saves the plain name, and wget, which knows `filename*`, the whole one."""
    job = await finished(server, *NAMES)
    for n, (name, plain) in enumerate(NAMES.items()):
        quoted = quote(name, safe="")
        url = f"{server.url}{job['href']}/artifacts/{quoted}"
        _, headers, _ = await send(server, "HEAD", url.removeprefix(server.url))
        assert headers["Content-Disposition"] == f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quoted}"
        curl = ("curl", "-sSfOJ", url)
        assert await asyncio.to_thread(saved_by, tmp_path / f"curl{n}", *curl) == [plain]
        wget = ("wget", "-q", "--content-disposition", "--restrict-file-names=nocontrol", url)
        assert await asyncio.to_thread(saved_by, tmp_path / f"wget{n}", *wget) == [name]
