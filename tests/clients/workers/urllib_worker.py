"""A composerd worker with urllib.request, which comes with Python: python urllib_worker.py SERVER TYPE FILE.

For each job of the type it prints the server's answer, uploads the file, and reports the field "text" of the args.
"""

import base64
import hashlib
import json
import platform
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from http.client import HTTPException
from pathlib import Path

SERVER, TYPE = sys.argv[1:3]
# The server may be below a path, as in https://host/path. A location has that path already.
HOST, PATH = urllib.parse.urljoin(SERVER, "/").rstrip("/"), urllib.parse.urlsplit(SERVER).path.rstrip("/")
FILE = Path(sys.argv[3])


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes a redirect for an error."""

    def redirect_request(self, *_):
        """Return no request that would follow the redirect."""


opener = urllib.request.build_opener(NoRedirect)


def ask(request):
    """Send a request, and return the status, the headers and the body of the answer."""
    try:
        with opener.open(request, timeout=40) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:  # the answer to a request that was refused
        with error:
            return error.status, error.headers, error.read()


def send(method, path, body=None, headers=None):
    """Send a request until there is a whole answer that is no 5xx. Return its status and its text."""
    while True:
        try:
            # A file is opened for each attempt: what is sent again begins at its first byte.
            data = FILE.open("rb") if method == "PUT" else body
            status, answered, text = ask(urllib.request.Request(HOST + path, data, headers or {}, method=method))
            if status < 500 and "X-Operation-Id" in answered:
                if text:
                    json.loads(text)  # raises an exception if the answer was cut
                return status, text.decode()
            print("trying again:", status, text[:200], file=sys.stderr)
        except (OSError, HTTPException, ValueError) as error:
            print("trying again:", error, file=sys.stderr)
        time.sleep(1)


def send_json(method, path, value):
    """Send a value as JSON. What is sent again has the same bytes."""
    return send(method, path, json.dumps(value).encode(), {"Content-Type": "application/json"})


def refusal(text):
    """Return what the server said about a request that it did not accept."""
    error = json.loads(text)
    return f"error {error['id']}, {error['reason']}"


def work(job):
    """Do one job."""
    location = job["location"]
    # Confirm the job, and later send heartbeats. A job that takes longer needs one every 20 s, from a thread.
    status, text = send("GET", location)
    if status != 200 or json.loads(text)["canceled"]:
        return

    with FILE.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        size = file.tell()
    # Without a length of its own, urllib.request sends a file in chunks.
    headers = {
        "Content-Length": str(size),
        "Content-Type": "application/octet-stream",
        "Content-Digest": f"sha-256=:{base64.b64encode(digest.digest()).decode()}:",
    }
    status, text = send("PUT", job["artifact_location"] + "output", headers=headers)
    if status == 200:
        result = {"text": job["args"]["text"]}
        artifacts = [{"name": "output", "size": size, "sha256": digest.hexdigest()}]
    else:
        result = {"job_error": {"id": 10, "reason": f"upload: {refusal(text)}", "details": None}}
        artifacts = []

    status, text = send("GET", location)
    if status != 200 or json.loads(text)["canceled"]:
        return
    status, text = send_json("PATCH", location, {"result": result, "artifacts": artifacts})
    if status != 200:
        print("result refused:", refusal(text), file=sys.stderr)


while True:
    # The same id is sent again if there was no answer, so that a job that was on its way is not lost.
    request = {"types": [TYPE], "arch": platform.machine(), "confirm": True, "request_id": str(uuid.uuid4())}
    status, text = send_json("POST", PATH + "/api/worker/v1/jobs?wait=20s", request)
    if status == 201:
        print(text, flush=True)
        work(json.loads(text))
    elif status not in (204, 409):  # 409: the id is used up
        sys.exit(f"request refused: {refusal(text)}")
