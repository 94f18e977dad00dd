"""A composerd worker with pycurl: python pycurl_worker.py SERVER TYPE FILE.

For each job of the type it prints the server's answer, uploads the file, and reports the field "text" of the args.
"""

import base64
import hashlib
import io
import json
import platform
import sys
import time
import uuid
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pycurl

SERVER, TYPE = sys.argv[1:3]
# The server may be below a path, as in https://host/path. A location has that path already.
HOST, PATH = urljoin(SERVER, "/").rstrip("/"), urlsplit(SERVER).path.rstrip("/")
FILE = Path(sys.argv[3])
curl = pycurl.Curl()


def ask(method, url, data, size, headers):
    """Send a request, and return the status, the headers and the body of the answer."""
    answered, text = io.BytesIO(), io.BytesIO()
    curl.reset()
    curl.setopt(pycurl.URL, url)
    curl.setopt(pycurl.CONNECTTIMEOUT, 5)
    curl.setopt(pycurl.LOW_SPEED_LIMIT, 1)  # ends a transfer that stands still for 40 s
    curl.setopt(pycurl.LOW_SPEED_TIME, 40)
    curl.setopt(pycurl.TCP_KEEPALIVE, 1)
    curl.setopt(pycurl.CUSTOMREQUEST, method)
    curl.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in headers.items()])
    if data is not None:
        curl.setopt(pycurl.UPLOAD, 1)
        curl.setopt(pycurl.INFILESIZE_LARGE, size)
        curl.setopt(pycurl.READDATA, data)
    curl.setopt(pycurl.HEADERFUNCTION, answered.write)
    curl.setopt(pycurl.WRITEDATA, text)
    curl.perform()
    return curl.getinfo(pycurl.RESPONSE_CODE), answered.getvalue(), text.getvalue()


def send(method, path, body=None, headers=None):
    """Send a request until there is a whole answer that is no 5xx. Return its status and its text."""
    while True:
        try:
            # A file is opened for each attempt: what is sent again begins at its first byte.
            if method == "PUT":
                data, size = FILE.open("rb"), FILE.stat().st_size
            else:
                data, size = body and io.BytesIO(body), len(body or b"")
            status, answered, text = ask(method, HOST + path, data, size, headers or {})
            if status < 500 and b"x-operation-id:" in answered.lower():
                if text:
                    json.loads(text)  # raises an exception if the answer was cut
                return status, text.decode()
            print("trying again:", status, text[:200], file=sys.stderr)
        except (pycurl.error, ValueError) as error:
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
    # INFILESIZE sets Content-Length.
    headers = {
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
