"""A composerd worker with urllib3: python urllib3_worker.py SERVER TYPE FILE.

For each job of the type it prints the server's answer, uploads the file, and reports the field "text" of the args.
"""

import base64
import hashlib
import json
import platform
import sys
import time
import uuid
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import urllib3

SERVER, TYPE = sys.argv[1:3]
# The server may be below a path, as in https://host/path. A location has that path already.
HOST, PATH = urljoin(SERVER, "/").rstrip("/"), urlsplit(SERVER).path.rstrip("/")
FILE = Path(sys.argv[3])
# urllib3 repeats by itself unless it is told not to, and sends the rest of a stream as if it were the whole.
http = urllib3.PoolManager(timeout=urllib3.Timeout(connect=5, read=40), retries=False)


def send(method, path, body=None, headers=None):
    """Send a request until there is a whole answer that is no 5xx. Return the answer."""
    while True:
        try:
            # A file is opened for each attempt: what is sent again begins at its first byte.
            data = FILE.open("rb") if method == "PUT" else body
            answer = http.request(method, HOST + path, body=data, headers=headers, redirect=False)
            if answer.status < 500 and "X-Operation-Id" in answer.headers:
                if answer.data:
                    answer.json()  # raises an exception if the answer was cut
                return answer
            print("trying again:", answer.status, answer.data[:200], file=sys.stderr)
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            print("trying again:", error, file=sys.stderr)
        time.sleep(1)


def send_json(method, path, value):
    """Send a value as JSON. What is sent again has the same bytes."""
    return send(method, path, json.dumps(value).encode(), {"Content-Type": "application/json"})


def refusal(answer):
    """Return what the server said about a request that it did not accept."""
    error = answer.json()
    return f"error {error['id']}, {error['reason']}"


def work(job):
    """Do one job."""
    location = job["location"]
    # Confirm the job, and later send heartbeats. A job that takes longer needs one every 20 s, from a thread.
    answer = send("GET", location)
    if answer.status != 200 or answer.json()["canceled"]:
        return

    with FILE.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        size = file.tell()
    # Without a length of its own, urllib3 sends a file in chunks.
    headers = {
        "Content-Length": str(size),
        "Content-Digest": f"sha-256=:{base64.b64encode(digest.digest()).decode()}:",
    }
    answer = send("PUT", job["artifact_location"] + "output", headers=headers)
    if answer.status == 200:
        result = {"text": job["args"]["text"]}
        artifacts = [{"name": "output", "size": size, "sha256": digest.hexdigest()}]
    else:
        result = {"job_error": {"id": 10, "reason": f"upload: {refusal(answer)}", "details": None}}
        artifacts = []

    answer = send("GET", location)
    if answer.status != 200 or answer.json()["canceled"]:
        return
    answer = send_json("PATCH", location, {"result": result, "artifacts": artifacts})
    if answer.status != 200:
        print("result refused:", refusal(answer), file=sys.stderr)


while True:
    # The same id is sent again if there was no answer, so that a job that was on its way is not lost.
    request = {"types": [TYPE], "arch": platform.machine(), "confirm": True, "request_id": str(uuid.uuid4())}
    answer = send_json("POST", PATH + "/api/worker/v1/jobs?wait=20s", request)
    if answer.status == 201:
        print(answer.data.decode(), flush=True)
        work(answer.json())
    elif answer.status not in (204, 409):  # 409: the id is used up
        sys.exit(f"request refused: {refusal(answer)}")
