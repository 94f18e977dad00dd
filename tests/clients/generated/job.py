"""A job with odd args from end to end, by a program that uses generated clients."""

import json
import os
from pathlib import Path

from ...tokens import bearer, new
from .conftest import Serve, Tools

ODD = (
    '{"$ref": "#/nowhere", "big": 9223372036854775809, "nested": [null, {"a": [null]}], "empty": {},'
    ' "text": "grüße 🦀 \\" \\\\ \\u2028", "null": null}'
)
"""Args that a client may take for something else: a reference, an integer above 2^63, nulls, and text of all kinds."""


async def run_a_job(
    serve: Serve, tools: Tools, program: tuple[str | Path, ...], folder: Path, odd: str = ODD, **environment: str
) -> None:
    """Run a program that does two jobs: one with args that were sent by somebody else, and one of its own.

    The server wants a token, which is in the program's environment as `TOKEN`.

    The first one has a number beyond the range of a float, on which no client may fail. The program submits the second
    one with the args `odd`, uploads a file, finishes with the args as the result, downloads the file, and asks about a
    job that is not there.
    """
    token = new(folder / "tokens", "generated", "admin")
    server = await serve("--tokens", str(folder / "tokens"))
    headers = bearer(token)
    raw = {"type": "raw", "args": json.loads(ODD)}
    body = json.dumps(raw)[:-2] + ', "huge": 1e400}}'
    status, first = await server.request("POST", "/api/composer/v1/jobs", data=body.encode(), headers=JSON | headers)
    assert status == 201, first
    file, out = folder / "uploaded", folder / "downloaded"
    file.write_bytes(os.urandom(1 << 20))
    environment["TOKEN"] = token
    printed = json.loads(await tools.run(*program, server.url, file, out, odd, folder=folder, **environment))
    assert printed["refused"] == "Token not found"
    assert out.read_bytes() == file.read_bytes()
    assert (await server.request("GET", first["href"], headers=headers))[1]["state"] == "finished"
    _, job = await server.request("GET", f"/api/composer/v1/jobs/{printed['job']}", headers=headers)
    assert (job["state"], job["type"]) == ("finished", "own")
    _, args = await server.request("GET", f"{job['href']}/args", headers=headers)
    assert args == json.loads(odd)


JSON = {"Content-Type": "application/json"}
