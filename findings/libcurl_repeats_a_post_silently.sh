#!/usr/bin/env bash
# libcurl 8.23.0 (pycurl 7.49.0): a POST on a used connection that closes without an answer is sent a second time, silently.
#
# If a connection that has served a request before ends before the first byte of an answer, libcurl takes it for one that
# the server had closed as idle, opens a new connection and sends the request again, whatever its method is. It does so
# too if the server had read the whole request and worked on it. The application sees one call and one answer. A server
# that hands something out for each POST has handed it out twice. CURLOPT_FORBID_REUSE or CURLOPT_FRESH_CONNECT prevent it.
# RFC 9110, 9.2.2, allows an automatic repetition of a request that is not idempotent only if the client knows that the
# first one was not applied.
#
# Output seen: "2 calls, 2 answers of 200; the server has read 3 POSTs with their bodies"
set -euo pipefail

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install -q pycurl==7.49.0

"$scratch/venv/bin/python" - <<'PYTHON'
import io
import socket
import sys
import threading

import pycurl

read = []


def serve():
    """Answer the first POST, close the connection after the second, and answer the third."""
    for answers in ((True, False), (True,)):
        connection, _ = listener.accept()
        reader = connection.makefile("rb")
        for answer in answers:
            read.append(reader.readline())
            while reader.readline() != b"\r\n":
                pass
            read[-1] += reader.read(5)
            if answer:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")
        reader.close()
        connection.close()


listener = socket.create_server(("127.0.0.1", 0))
server = threading.Thread(target=serve)
server.start()
curl = pycurl.Curl()
curl.setopt(pycurl.URL, f"http://127.0.0.1:{listener.getsockname()[1]}/")
curl.setopt(pycurl.POSTFIELDS, "a=one")
statuses = []
for _ in range(2):
    curl.setopt(pycurl.WRITEDATA, io.BytesIO())
    curl.perform()
    statuses.append(curl.getinfo(pycurl.RESPONSE_CODE))
server.join()
print(f"2 calls, {len(statuses)} answers of {statuses[0]}; the server has read {len(read)} POSTs with their bodies")
sys.exit(not (statuses == [200, 200] and read == [b"POST / HTTP/1.1\r\na=one"] * 3))
PYTHON
