#!/usr/bin/env bash
# aiohttp 3.14.5: a request with an expectation other than 100-continue never reaches the middlewares of the application.
#
# RFC 9110 lets a client send any expectation, and lets a server answer 417 to one that it does not support. aiohttp
# raises that 417 while it looks up the handler, before the first middleware is called. An application whose middleware
# turns errors into its own format, adds a request id or counts requests therefore answers this one request with
# aiohttp's plain text, without the id, and does not count it. A wrapper around the application's handler sees it.
#
# Output seen: "status 417, body 'Unknown Expect: 200-ok', middleware called 0 times; without Expect: status 200, called 1 time"
set -euo pipefail

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install -q aiohttp==3.14.5

"$scratch/venv/bin/python" - <<'PYTHON'
import asyncio
import sys

from aiohttp import web

calls = 0


@web.middleware
async def count(request, handler):
    global calls
    calls += 1
    return await handler(request)


async def hello(request):
    return web.Response(text="hello")


async def send(port, *headers):
    """Return the status and the body of the answer to one request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = ["GET / HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
    writer.write("\r\n".join(lines).encode())
    answer = (await reader.read()).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), body


async def main():
    app = web.Application(middlewares=[count])
    app.router.add_get("/", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    refused = await send(port, "Expect: 200-ok")
    called_for_refused = calls
    plain = await send(port)
    await runner.cleanup()
    print(
        f"status {refused[0]}, body {refused[1]!r}, middleware called {called_for_refused} times; "
        f"without Expect: status {plain[0]}, called {calls - called_for_refused} time"
    )
    same = refused == (417, "Unknown Expect: 200-ok") and called_for_refused == 0 and plain[0] == 200 and calls == 1
    sys.exit(0 if same else 1)


asyncio.run(main())
PYTHON
