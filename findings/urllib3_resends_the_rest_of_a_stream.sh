#!/usr/bin/env bash
# urllib3 2.8.0: a PUT of a generator whose connection broke is sent again with what the generator has left, and succeeds.
#
# urllib3 repeats GET, PUT and other idempotent methods three times by default. A body that it cannot rewind it sends
# again all the same: for a file it goes back to where it began, but a generator goes on where it was. The repetition
# is complete as HTTP, with its last chunk, so no server can tell that bytes are missing, and the caller gets 200.
# If the generator had ended, what is sent again is an empty body.
#
# With retries=False the exception of the broken connection arrives instead.
#
# Output seen: "sent 10 chunks of 100000 bytes, status 200, the server has 2 uploads, the whole one has 700000 bytes or fewer"
set -euo pipefail

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install -q urllib3==2.8.0

"$scratch/venv/bin/python" - <<'PYTHON'
import socket
import struct
import sys
import threading

import urllib3

SIZE = 100_000
sent = []
whole = []


def chunks():
    """Yield ten chunks, and let the server say when to go on after the third."""
    for number in range(10):
        if number == 3:
            broken.wait()
        sent.append(number)
        yield b"a" * SIZE


def serve():
    """Reset the first connection within its body; read the body of the second to its end, and answer 200."""
    first, _ = listener.accept()
    received = b""
    while len(received) < 2 * SIZE:
        received += first.recv(65536)
    first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    first.close()
    broken.set()
    second, _ = listener.accept()
    reader = second.makefile("rb")
    while reader.readline() != b"\r\n":
        pass
    size = 0
    while length := int(reader.readline(), 16):
        size += len(reader.read(length))
        reader.readline()
    whole.append(size)
    second.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    reader.close()
    second.close()


broken = threading.Event()
listener = socket.create_server(("127.0.0.1", 0))
server = threading.Thread(target=serve)
server.start()
url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
answer = urllib3.request("PUT", url, body=chunks())
server.join()
print(
    f"sent {len(sent)} chunks of {SIZE} bytes, status {answer.status}, "
    f"the server has {len(whole) + 1} uploads, the whole one has {'700000 bytes or fewer' if whole[0] <= 7 * SIZE else whole[0]}"
)
sys.exit(not (len(sent) == 10 and answer.status == 200 and whole[0] <= 7 * SIZE))
PYTHON
