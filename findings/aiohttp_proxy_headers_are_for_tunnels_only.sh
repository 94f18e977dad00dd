#!/usr/bin/env bash
# aiohttp 3.14.5: the way that replaces `proxy_auth` sends no login to a proxy if the URL has http://.
#
# `proxy_auth` is deprecated, and the warning says to pass proxy_headers={"Proxy-Authorization": ...} instead. For an
# https:// URL these headers are sent with CONNECT. For an http:// URL, which the proxy gets in the request itself, they
# are dropped without a word, and the proxy answers 407. The header has to be among the request's own headers there.
#
# Output seen: "http: None with proxy_headers, 'Basic eDp5' with proxy_auth; https: 'Basic eDp5' with proxy_headers"
set -euo pipefail

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install -q aiohttp==3.14.5

"$scratch/venv/bin/python" -W ignore::DeprecationWarning - <<'PYTHON'
import asyncio
import sys

import aiohttp

LOGIN = {"Proxy-Authorization": "Basic eDp5"}
logins = []


async def proxy(reader, writer):
    """Take note of the login in a request, and refuse it."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
    logins.append(lines.get("Proxy-Authorization"))
    writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    writer.close()


async def main():
    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    url = "http://127.0.0.1:{}".format(server.sockets[0].getsockname()[1])
    async with server, aiohttp.ClientSession() as http:
        await http.get("http://example.test/", proxy=url, proxy_headers=LOGIN)
        await http.get("http://example.test/", proxy=url, proxy_auth=aiohttp.BasicAuth("x", "y"))
        try:
            await http.get("https://example.test/", proxy=url, proxy_headers=LOGIN)
        except aiohttp.ClientHttpProxyError:
            pass
    print(
        f"http: {logins[0]} with proxy_headers, {logins[1]!r} with proxy_auth; "
        f"https: {logins[2]!r} with proxy_headers"
    )
    sys.exit(0 if logins == [None, "Basic eDp5", "Basic eDp5"] else 1)


asyncio.run(main())
PYTHON
