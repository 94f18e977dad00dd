"""Pgpool-II as the tests run it: with a cache, before a primary and a standby that lags and gets all its reads."""

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2

from .throwaway import Throwaway

PORT = 9999

LAG = "300ms"
"""Time by which the standby is behind the primary."""

_SETTINGS = """
backend_clustering_mode = 'streaming_replication'
listen_addresses = ''
port = {port}
socket_dir = '{directory}'
pcp_socket_dir = '{directory}'
pcp_port = {pcp_port}
wd_ipc_socket_dir = '{directory}'
pid_file_name = '{directory}/pgpool.pid'
logdir = '{directory}'
num_init_children = 16
max_pool = 1
load_balance_mode = on
memory_cache_enabled = on
memqcache_oiddir = '{directory}'
sr_check_user = 'tests'
sr_check_database = 'postgres'
sr_check_period = 1
backend_hostname0 = '{directory}'
backend_port0 = 5432
backend_data_directory0 = '{directory}/data'
backend_weight0 = 0
backend_flag0 = 'ALWAYS_PRIMARY|DISALLOW_TO_FAILOVER'
backend_hostname1 = '{standby}'
backend_port1 = 5432
backend_data_directory1 = '{standby}/data'
backend_weight1 = 1
backend_flag1 = 'DISALLOW_TO_FAILOVER'
"""


@contextmanager
def behind_pgpool(program: str, primary: Throwaway) -> Iterator[None]:
    """Run Pgpool-II before a primary and a standby that lags behind it.

    The unix socket of Pgpool-II is in the primary's directory, and its port is `PORT`.
    """
    standby = Throwaway(primary._given, standby_of=primary, recovery_min_apply_delay=LAG)
    try:
        standby.start()
        settings = primary.directory / "pgpool.conf"
        settings.write_text(
            _SETTINGS.format(port=PORT, pcp_port=_free_port(), directory=primary.directory, standby=standby.directory)
        )
        (primary.directory / "pcp.conf").touch()
        with (primary.directory / "pgpool.log").open("wb") as log:
            process = subprocess.Popen(
                [program, "-n", "-f", settings, "-F", primary.directory / "pcp.conf"],
                stdout=log,
                stderr=log,
                cwd=primary.directory,
                **primary._account,
            )
        try:
            _wait_until_it_answers(primary, process)
            yield
        finally:
            process.send_signal(signal.SIGINT)  # it would wait for its clients after any other
            process.wait(30)
    finally:
        standby.remove()


def queries_of_the_standby(primary: Throwaway) -> int:
    """Return the number of queries that Pgpool-II has sent to the standby."""
    connection = psycopg2.connect(host=str(primary.directory), port=PORT, user="tests", dbname="postgres")
    try:
        with connection.cursor() as cursor:
            cursor.execute("SHOW pool_nodes")
            columns = [column.name for column in cursor.description or ()]
            nodes = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
            return int(nodes[1]["select_cnt"])
    finally:
        connection.close()


def _free_port() -> int:
    """Return a TCP port that is free: Pgpool-II always listens on one of localhost, for its own commands."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_it_answers(primary: Throwaway, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg2.connect(host=str(primary.directory), port=PORT, user="tests", dbname="postgres").close()
            return
        except psycopg2.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((primary.directory / "pgpool.log").read_text()) from None
            time.sleep(0.02)
