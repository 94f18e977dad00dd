#!/usr/bin/env bash
# h2o 2.2.5: an upload over HTTP/1.1 that takes longer than 10 seconds is cut, however fast its bytes arrive.
#
# http1-request-timeout (default 10 s) is described as the "timeout for incoming requests". It limits the whole request,
# body included, and does not start again when bytes arrive: a client that sends 100 KiB every half second is cut as one
# that sends nothing. There is no answer, only a closed connection, so clients report a network error. With the timeout
# raised the same upload passes. There is no timeout between bytes that could be set instead.
#
# Debian's package is unpacked, not installed.
#
# Output seen: "default: cut after 10 s, 2.0 MB sent; http1-request-timeout 60: HTTP/1.1 200 after 14 s, 2.9 MB sent"
set -euo pipefail

scratch=$(mktemp -d)
trap 'kill "${h2o:-}" 2> /dev/null || true; wait; rm -rf "$scratch"' EXIT
mkdir "$scratch/debs" "$scratch/buffer"
chmod 755 "$scratch"
chmod 777 "$scratch/buffer"
(cd "$scratch/debs" && apt-get -qq -o APT::Sandbox::User=root download h2o=2.2.5+dfsg2-7)
dpkg -x "$scratch"/debs/*.deb "$scratch/root"

cat > "$scratch/upload.py" <<'PYTHON'
import select
import socket
import sys
import threading
import time

PARTS, PART = 28, bytes(100 * 1024)
listener = socket.create_server(("127.0.0.1", 18442))


def serve():
    """Answer 200 to a request, after its body."""
    connection, _ = listener.accept()
    with connection:
        left = PARTS * len(PART)
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(65536)
        left -= len(head.partition(b"\r\n\r\n")[2])
        while left > 0:
            left -= len(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


threading.Thread(target=serve, daemon=True).start()
for _ in range(100):
    try:
        connection = socket.create_connection(("127.0.0.1", 18441))
        break
    except OSError:
        time.sleep(0.1)
began, sent = time.monotonic(), 0
connection.sendall(b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (PARTS * len(PART)))
answer = b""
for _ in range(PARTS):
    connection.sendall(PART)
    sent += len(PART)
    if select.select([connection], [], [], 0.5)[0]:
        break
try:
    answer = connection.recv(4096)
except ConnectionError:
    pass
what = answer.split(b" OK")[0].decode() + " after" if answer else "cut after"
print(f"{what} {time.monotonic() - began:.0f} s, {sent / 1e6:.1f} MB sent", end="")
PYTHON

run() {
    cat > "$scratch/h2o.conf" <<SETTINGS
listen: { host: 127.0.0.1, port: 18441 }
temp-buffer-path: $scratch/buffer
user: $(id -un)
$1
hosts: { default: { paths: { "/": { proxy.reverse.url: "http://127.0.0.1:18442/" } } } }
SETTINGS
    "$scratch/root/usr/bin/h2o" -c "$scratch/h2o.conf" > "$scratch/log" 2>&1 &
    h2o=$!
    python3 "$scratch/upload.py"
    kill "$h2o"
    wait "$h2o" 2> /dev/null || true
}

default=$(run "")
raised=$(run "http1-request-timeout: 60")
echo "default: $default; http1-request-timeout 60: $raised"
[[ $default == "cut after 1"* && $raised == "HTTP/1.1 200"* ]]
