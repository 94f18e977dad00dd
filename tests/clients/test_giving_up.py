"""Clients that give up waiting for a job."""

import asyncio
import sys

from .conftest import WORKER, Serve, until_waiting, without_proxies

IMPATIENT = {
    "aiohttp": """
import aiohttp, asyncio
async def main():
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(sock_read=1)) as session:
        await session.post(URL, json=BODY)
asyncio.run(main())
""",
    "httpx": "import httpx; httpx.post(URL, json=BODY, timeout=1)",
    "pycurl": """
import json, pycurl
curl = pycurl.Curl()
for option, value in {"URL": URL, "POSTFIELDS": json.dumps(BODY), "TIMEOUT": 1}.items():
    curl.setopt(getattr(pycurl, option), value)
curl.setopt(pycurl.HTTPHEADER, ["Content-Type: application/json"])
curl.perform()
""",
    "requests": "import requests; requests.post(URL, json=BODY, timeout=1)",
    "urllib.request": """
import json, urllib.request
request = urllib.request.Request(URL, json.dumps(BODY).encode(), {"Content-Type": "application/json"})
urllib.request.urlopen(request, timeout=1)
""",
    "urllib3": "import urllib3; urllib3.request('POST', URL, json=BODY, timeout=1, retries=False)",
}
"""Python programs that wait for a job for one second."""


async def test_clients_that_give_up(serve: Serve) -> None:
    """No client that gives up waiting gets a job: the job that comes next stays ready."""
    server = await serve()
    body = {"types": ["build"], "arch": "x86_64", "confirm": True}
    start = f"URL = '{server.url}{WORKER}/jobs?wait=20s'\nBODY = {body}\n"
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", start + program, stderr=asyncio.subprocess.PIPE, env=without_proxies()
        )
        for program in IMPATIENT.values()
    ]
    for name, process in zip(IMPATIENT, processes, strict=True):
        _, errors = await process.communicate()
        assert process.returncode == 1, (name, errors)
        assert b"time" in errors.lower(), (name, errors)  # each names the timeout in its own way
    await until_waiting(server, 0)
    job = await server.submit()
    assert (await server.job(job["id"], wait="300ms"))["state"] == "ready"
