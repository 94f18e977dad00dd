"""A composerd worker with aiohttp: python aiohttp_worker.py SERVER TYPE FILE.

For each job of the type it prints the server's answer, uploads the file, and reports the field "text" of the args.
"""

import asyncio
import base64
import hashlib
import json
import platform
import sys
import uuid
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import aiohttp

SERVER, TYPE = sys.argv[1:3]
# The server may be below a path, as in https://host/path. A location has that path already.
HOST, PATH = urljoin(SERVER, "/").rstrip("/"), urlsplit(SERVER).path.rstrip("/")
FILE = Path(sys.argv[3])


async def send(session, method, path, body=None, headers=None):
    """Send a request until there is a whole answer that is no 5xx. Return its status and its text."""
    while True:
        try:
            # A file is opened for each attempt: what is sent again begins at its first byte.
            data = FILE.open("rb") if method == "PUT" else body
            async with session.request(
                method, HOST + path, data=data, headers=headers, allow_redirects=False
            ) as answer:
                text = await answer.text()
                if answer.status < 500 and "X-Operation-Id" in answer.headers:
                    if text:
                        json.loads(text)  # raises an exception if the answer was cut
                    return answer.status, text
                print("trying again:", answer.status, text[:200], file=sys.stderr)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            print("trying again:", repr(error), file=sys.stderr)
        await asyncio.sleep(1)


async def send_json(session, method, path, value):
    """Send a value as JSON. What is sent again has the same bytes."""
    return await send(session, method, path, json.dumps(value).encode(), {"Content-Type": "application/json"})


def refusal(text):
    """Return what the server said about a request that it did not accept."""
    error = json.loads(text)
    return f"error {error['id']}, {error['reason']}"


async def work(session, job):
    """Do one job."""
    location = job["location"]
    # Confirm the job, and later send heartbeats. A job that takes longer needs one every 20 s, from a task.
    status, text = await send(session, "GET", location)
    if status != 200 or json.loads(text)["canceled"]:
        return

    with FILE.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        size = file.tell()
    # aiohttp sends the length of a file, and none for a generator.
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Digest": f"sha-256=:{base64.b64encode(digest.digest()).decode()}:",
    }
    status, text = await send(session, "PUT", job["artifact_location"] + "output", headers=headers)
    if status == 200:
        result = {"text": job["args"]["text"]}
        artifacts = [{"name": "output", "size": size, "sha256": digest.hexdigest()}]
    else:
        result = {"job_error": {"id": 10, "reason": f"upload: {refusal(text)}", "details": None}}
        artifacts = []

    status, text = await send(session, "GET", location)
    if status != 200 or json.loads(text)["canceled"]:
        return
    status, text = await send_json(session, "PATCH", location, {"result": result, "artifacts": artifacts})
    if status != 200:
        print("result refused:", refusal(text), file=sys.stderr)


async def main():
    """Do jobs until the process is killed."""
    # The wait is 20 s. An upload may take longer, as long as it does not stand still.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=40)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while True:
            # The same id is sent again if there was no answer, so that a job that was on its way is not lost.
            request = {"types": [TYPE], "arch": platform.machine(), "confirm": True, "request_id": str(uuid.uuid4())}
            status, text = await send_json(session, "POST", PATH + "/api/worker/v1/jobs?wait=20s", request)
            if status == 201:
                print(text, flush=True)
                await work(session, json.loads(text))
            elif status not in (204, 409):  # 409: the id is used up
                sys.exit(f"request refused: {refusal(text)}")


asyncio.run(main())
