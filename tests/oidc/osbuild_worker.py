"""A worker that behaves as osbuild-worker does: python osbuild_worker.py SERVER TOKEN_URL CLIENT_ID SECRET_FILE MINUTE.

It gets a token when it starts and after a 401, in a form with the client's secret, or with the refresh token in the
file if its name is `offline-token`. It registers, sends a status without a body each minute, requests jobs without a
limit in two threads, looks every 15 s whether its job was canceled, and reports each result once. MINUTE is the number
of seconds that a minute takes here.
"""

import http.client
import json
import os
import sys
import threading
import time
import urllib.parse
from pathlib import Path

SERVER, TOKEN_URL, CLIENT_ID = (sys.argv[1], sys.argv[2], sys.argv[3])
SECRET_FILE, MINUTE = Path(sys.argv[4]), float(sys.argv[5])
BASE = "/api/worker/v1/"
NIL = "00000000-0000-0000-0000-000000000000"


def say(*words: object) -> None:
    """Print a line for the test, at once, because several threads do."""
    os.write(1, f"{' '.join(map(str, words))}\n".encode())


def send(url: str, method: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
    """Send a request on a connection of its own, and return the status and the body of the answer."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    try:
        length = {"Content-Length": "0"} if body is None and method != "GET" else {}
        connection.request(method, parts.path, body, {"User-Agent": "Go-http-client/1.1", **length, **headers})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Client:
    """The requests of one worker, with its token and its id."""

    def __init__(self) -> None:
        self._token = ""
        self._id = NIL
        self._token_lock = threading.Lock()
        self._id_lock = threading.Lock()

    def refresh(self) -> None:
        """Get a token."""
        with self._token_lock:
            secret = SECRET_FILE.read_text().strip()
            form = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": secret}
            if SECRET_FILE.name == "offline-token":
                form = {"grant_type": "refresh_token", "client_id": CLIENT_ID, "refresh_token": secret}
            content = {"Content-Type": "application/x-www-form-urlencoded"}
            _, answer = send(TOKEN_URL, "POST", urllib.parse.urlencode(form).encode(), content)
            self._token = json.loads(answer).get("access_token", "")
        say("token")

    def request(self, method: str, path: str, body: bytes | None, content_type: str = "") -> tuple[int, bytes]:
        """Send a request with the token, and once more with another one if that is refused."""

        def once() -> tuple[int, bytes]:
            headers = {"Authorization": f"Bearer {self._token}"}
            headers |= {"Content-Type": content_type} if content_type else {}
            return send(urllib.parse.urljoin(SERVER + BASE, path), method, body, headers)

        status, answer = once()
        if status == 401:
            self.refresh()
            status, answer = once()
        return status, answer

    def register(self) -> None:
        """Register, and keep the id."""
        with self._id_lock:
            body = json.dumps({"arch": "x86_64"}).encode() + b"\n"
            status, answer = self.request("POST", "workers", body, "application/json")
            if status != 201:
                say("not registered", status, answer)
                return
            self._id = json.loads(answer)["worker_id"]
        say("registered", self._id)

    def send_status(self) -> None:
        """Say that this worker is alive; register again if the server does not know it."""
        status, answer = self.request("POST", f"workers/{self._id}/status", None, "application/json")
        if status == 400:
            self.register()
        else:
            say("status", status, "" if status == 200 else answer)

    def request_job(self, types: list[str]) -> dict[str, object] | None:
        """Request a job, and return it; None if the time limit of the server is over."""
        asked = {"types": types, "arch": "x86_64", **({} if self._id == NIL else {"worker_id": self._id})}
        status, answer = self.request("POST", "jobs", json.dumps(asked).encode() + b"\n", "application/json")
        if status == 204:
            return None
        if status != 201:
            raise OSError(f"error requesting job: {status} {answer!r}")
        found: dict[str, object] = json.loads(answer)
        return found

    def run(self, job: dict[str, object]) -> None:
        """Wait until the job's file is there, looking whether it was canceled; then upload the file, and report."""
        location, file = str(job["location"]), Path(str(job["args"]))
        done = threading.Event()

        def watch() -> None:
            while not done.wait(MINUTE / 4):
                status, answer = self.request("GET", location, None)
                say("watched", status, "" if status == 200 else answer)

        watching = threading.Thread(target=watch)
        watching.start()
        while not file.exists():
            time.sleep(0.01)
        done.set()
        watching.join()
        name = f"{job['artifact_location']}image.raw"
        status, answer = self.request("PUT", name, file.read_bytes(), "application/octet-stream")
        if status != 200:
            say("not uploaded", status, answer)
        body = json.dumps({"result": {"success": True}}).encode() + b"\n"
        status, answer = self.request("PATCH", location, body, "application/json")
        say("reported", job["id"], status, "" if status == 200 else answer)


def heartbeats(client: Client) -> None:
    """Send a status each minute."""
    while True:
        time.sleep(MINUTE)
        try:
            client.send_status()
        except (OSError, http.client.HTTPException, ValueError) as exc:
            say("no status", exc)


def jobs(client: Client, types: list[str]) -> None:
    """Request and run one job after the other."""
    while True:
        try:
            job = client.request_job(types)
            if job is not None:
                client.run(job)
        except (OSError, http.client.HTTPException, ValueError) as exc:
            say("backing off", exc)
            time.sleep(MINUTE / 6)


def main() -> None:
    """Work until the process is killed."""
    client = Client()
    try:
        client.refresh()
        client.register()
    except (OSError, http.client.HTTPException, ValueError) as exc:
        say("no token yet", exc)
    for work, arguments in ((heartbeats, (client,)), (jobs, (client, ["depsolve"])), (jobs, (client, ["osbuild"]))):
        threading.Thread(target=work, args=arguments, daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
