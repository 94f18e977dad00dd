#!/usr/bin/env bash
# asyncio of Python 3.11: each connection with TLS has a buffer of 256 KiB before its client has sent anything.
#
# The buffer is filled with zeros, so it is real memory from the beginning. A server with 20,000 connections needs 5 GiB
# for clients that only connect and send nothing. composerd makes the buffer smaller.
#
# Output seen: "a new connection with TLS has a buffer of 256 KiB"
set -euo pipefail
python3 - <<'PY'
import asyncio
import platform
import ssl
import sys
from asyncio import sslproto

loop = asyncio.new_event_loop()
protocol = sslproto.SSLProtocol(loop, asyncio.Protocol(), ssl.create_default_context(), None, server_side=False)
size = len(protocol.get_buffer(-1))
print(f"Python {platform.python_version()}: a new connection with TLS has a buffer of {size // 1024} KiB")
loop.close()
sys.exit(size != 256 * 1024)
PY
