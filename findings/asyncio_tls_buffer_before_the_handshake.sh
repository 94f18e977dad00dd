#!/usr/bin/env bash
# asyncio gives each connection with TLS a buffer of 256 KiB, filled with zeros, before its client has sent anything.
# So a server with 20,000 connections needs 5 GiB for clients that only connect. composerd makes the buffer smaller.
set -euo pipefail
python3 - <<'PY'
import asyncio
import ssl
import sys
from asyncio import sslproto

loop = asyncio.new_event_loop()
protocol = sslproto.SSLProtocol(loop, asyncio.Protocol(), ssl.create_default_context(), None, server_side=False)
size = len(protocol.get_buffer(-1))
print(f"asyncio: a new connection with TLS has a buffer of {size // 1024} KiB")
loop.close()
sys.exit(size != 256 * 1024)
PY
