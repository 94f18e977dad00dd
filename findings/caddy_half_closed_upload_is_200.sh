#!/usr/bin/env bash
# Caddy 2.6.2: an upload whose client closes its side of the connection after the last byte is answered 200, and is lost.
#
# A client may say with a FIN that it sends nothing more, and read the answer: netcat does, and so does whatever shuts a
# socket down for writing. Caddy's reverse_proxy takes the FIN for a client that has gone, cancels its request to the
# server, and then tells the client 200 with an empty body, whatever the server has made of it. Here the server would
# answer 201 a moment after the body has come; it sees its connection closed instead, and would have undone the upload.
# Without the FIN the client gets the server's 201. Caddy 2.11 answers 499.
#
# Debian's package is unpacked, not installed.
#
# Output seen: "kept open: HTTP/1.1 201 Created, server says stored; closed for writing: HTTP/1.1 200 OK, server says client gone"
set -euo pipefail

scratch=$(mktemp -d)
trap 'kill "${caddy:-}" 2> /dev/null || true; rm -rf "$scratch"' EXIT
mkdir "$scratch/debs"
(cd "$scratch/debs" && apt-get -qq -o APT::Sandbox::User=root download caddy=2.6.2-5)
dpkg -x "$scratch"/debs/*.deb "$scratch/root"
cat > "$scratch/Caddyfile" <<SETTINGS
{
	admin off
	auto_https off
}
http://:18431 {
	bind 127.0.0.1
	reverse_proxy 127.0.0.1:18432
}
SETTINGS
HOME=$scratch "$scratch/root/usr/bin/caddy" run --adapter caddyfile --config "$scratch/Caddyfile" > "$scratch/log" 2>&1 &
caddy=$!

python3 - <<'PYTHON'
import select
import socket
import sys
import threading
import time

SAID = []


def serve(listener):
    """Read a body of four bytes, and answer 201 half a second later unless the client has gone."""
    while True:
        connection, _ = listener.accept()
        with connection:
            data = b""
            while b"data" not in data:
                data += connection.recv(4096)
            gone, _, _ = select.select([connection], [], [], 0.5)
            SAID.append("client gone" if gone else "stored")
            if not gone:
                connection.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def upload(close):
    """Return the first line of the answer to an upload, and what the server says."""
    with socket.create_connection(("127.0.0.1", 18431)) as connection:
        connection.sendall(b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\ndata")
        if close:
            connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(4096).split(b"\r\n")[0].decode()
    time.sleep(1)
    return f"{answer}, server says {SAID[-1]}"


listener = socket.create_server(("127.0.0.1", 18432))
threading.Thread(target=serve, args=(listener,), daemon=True).start()
for _ in range(100):
    try:
        socket.create_connection(("127.0.0.1", 18431)).close()
        break
    except OSError:
        time.sleep(0.1)
seen, lost = upload(False), upload(True)
print(f"kept open: {seen}; closed for writing: {lost}")
sys.exit(0 if "200 OK" in lost and "client gone" in lost and "201" in seen else 1)
PYTHON
