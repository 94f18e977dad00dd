"""Measures how much one client's misuse slows another down: `python -m benchmarks.fairness`.

A quiet client submits, claims, renews and finishes one job after the other, from an address of its own, while another
address misuses the server in one way after the other. It prints p50 and p99 of each operation, quiet and meanwhile.
"""

import argparse
import asyncio
import contextlib
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from statistics import median

import msgspec
import trustme

from benchmarks import disk, loads, servers
from benchmarks.client import Connection
from benchmarks.database import database
from benchmarks.misuse import MISUSES, handshakes
from benchmarks.program import on_fastest_loop, parser_of, pin, progress, raise_descriptors, scratch_in
from benchmarks.servers import Server
from benchmarks.table import p99

SOURCE = "127.0.8.1"
"""The address of the quiet client."""

OPERATIONS = ("submit", "claim", "heartbeat", "finish")
WANTED = 5.0
"""The most that the p99 of an operation may grow."""

SECONDS = 5.0
"""Duration of a misuse while the quiet client is measured."""

QUIET = 2.0
"""Duration of a measurement without misuse, before each one with it."""

WITHIN = 10.0
"""Seconds after which an operation counts as failed."""

PAUSE = 0.005
JOB_TYPE = "quiet"
SETTINGS = ("--max-waits", "1000")


class Samples(msgspec.Struct):
    """The seconds that operations took, and how many failed."""

    took: dict[str, list[float]] = msgspec.field(default_factory=lambda: {name: [] for name in OPERATIONS})
    failed: int = 0

    def add(self, other: "Samples") -> None:
        """Add the samples of another measurement."""
        self.failed += other.failed
        for name, took in other.took.items():
            self.took[name] += took


class Quiet:
    """The quiet client: it does one job after the other."""

    def __init__(self, server: Server, tls: ssl.SSLContext | None) -> None:
        self._server = server
        self._tls = tls
        self._connection: Connection | None = None

    async def measure(self, seconds: float) -> Samples:
        """Do jobs for this long."""
        samples = Samples()
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends:
            try:
                await self._job(samples)
            except OSError:  # a TimeoutError too
                samples.failed += 1
                self.close()
            await asyncio.sleep(PAUSE)
        return samples

    async def _job(self, samples: Samples) -> None:
        await self._send(samples, "submit", loads.submit_request(JOB_TYPE), 201)
        job = await self._send(samples, "claim", loads.claim_request(JOB_TYPE), 201)
        await self._send(samples, "heartbeat", loads.heartbeat_request(job), 200)
        await self._send(samples, "finish", loads.finish_request(job), 200)

    async def _send(self, samples: Samples, name: str, message: bytes, expect: int) -> bytes:
        began = time.perf_counter()
        try:
            async with asyncio.timeout(WITHIN):
                if self._connection is None:
                    self._connection = await Connection.open(self._server.host, self._server.port, SOURCE, self._tls)
                return await self._connection.send(message, expect)
        finally:
            samples.took[name].append(time.perf_counter() - began)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextlib.asynccontextmanager
async def misused(server: Server, name: str) -> AsyncIterator[None]:
    """Misuse a server for the length of the block, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.misuse", name, server.host, str(server.port), str(SECONDS + 60)]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        if await process.stdout.readline() != b"begun\n":
            raise RuntimeError(f"{name} did not begin")
        yield
        if process.returncode is not None:
            raise RuntimeError(f"{name} has ended too early")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def measure(
    start: contextlib.AbstractContextManager[Server], names: Sequence[str], tls: ssl.SSLContext | None
) -> int:
    """Measure misuses on a server of their own, print a line for each operation, and return how many grew too much."""
    with start as server:
        client = Quiet(server, tls)
        await client.measure(QUIET)  # to warm up
        quiet = Samples()
        beside: dict[str, Samples] = {}
        for name in names:
            progress(name)
            quiet.add(await client.measure(QUIET))
            async with misused(server, name):
                beside[name] = await client.measure(SECONDS)
            await asyncio.sleep(1)  # until the server has noticed that the connections are closed
        client.close()
    return sum(_report(name, quiet, samples) for name, samples in beside.items())


def _report(name: str, quiet: Samples, beside: Samples) -> int:
    too_much = 0
    for operation in OPERATIONS:
        before, now = quiet.took[operation], beside.took[operation]
        if len(now) < 2:
            print(f"{name:14}{operation:12}{'no answers':>20}   not met", flush=True)
            too_much += 1
            continue
        ratio = p99(now) / p99(before)
        met = ratio <= WANTED
        too_much += not met
        figures = "".join(f"{seconds * 1000:12.2f}" for seconds in (median(before), p99(before), median(now), p99(now)))
        print(f"{name:14}{operation:12}{figures}{ratio:10.1f}   {'' if met else 'not met'}".rstrip(), flush=True)
    if beside.failed:
        too_much += 1
        print(f"{name:14}{beside.failed} jobs failed   not met", flush=True)
    return too_much


@contextlib.contextmanager
def _storage(url: str, scratch: Path) -> Iterator[str]:
    """Yield the URL of an empty storage: `fs:` and `postgresql:` alone stand for temporary ones."""
    if url == "postgresql:":
        with database() as server:
            yield server.url()
    else:
        yield f"fs:{scratch / 'storage'}" if url == "fs:" else url


async def run(options: argparse.Namespace, scratch: Path) -> int:
    """Start the servers, and measure the misuses one after the other."""
    cores = pin()
    chosen = [one.__name__ for one in MISUSES if not options.only or one.__name__ in options.only]
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(scratch / "pem")
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    too_much = 0
    with _storage(options.storage, scratch) as url:
        print(disk.inspect(scratch).text())
        heading = "".join(f"{text:>12}" for text in ("quiet p50", "quiet p99", "p50", "p99"))
        print(f"{'milliseconds':26}{heading}{'ratio':>10}   wanted: at most {WANTED:g}", flush=True)
        plain = [name for name in chosen if name != handshakes.__name__]
        if plain:
            start = servers.start("composerd", servers.composerd(url, 2000, *SETTINGS), cores)
            too_much += await measure(start, plain, None)
        if handshakes.__name__ in chosen:
            certificate = ("--tls-cert", str(scratch / "pem"), "--tls-key", str(scratch / "pem"))
            start = servers.start("composerd with TLS", servers.composerd(url, 2000, *SETTINGS, *certificate), cores)
            too_much += await measure(start, [handshakes.__name__], tls)
    return too_much


def main() -> None:
    """Read the command line, and run the benchmark."""
    parser = parser_of("fairness", __doc__)
    parser.add_argument("--storage", default="fs:", help="storage URL; fs: and postgresql: alone are temporary ones")
    names = [one.__name__ for one in MISUSES]
    parser.add_argument("--only", action="append", choices=names, help="measure this misuse only; repeatable")
    options = parser.parse_args()
    raise_descriptors()
    with scratch_in(options.directory) as scratch:
        too_much = on_fastest_loop(run(options, scratch))
    print(f"{too_much} not met" if too_much else "all met")


if __name__ == "__main__":
    main()
