"""Graphs of jobs with real manifests of image builds, workers that run commands, and artifacts."""

import asyncio
import contextlib
import hashlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from composerd.cli.demo.show import graph
from composerd_client import ComposerClient

from .conftest import Serve

MANIFESTS = sorted((Path(__file__).parents[1] / "data" / "manifests").glob("*.json"))
TASKS = (sys.executable, "-m", "composerd.cli.demo.tasks")


@contextlib.asynccontextmanager
async def worker(url: str, arch: str) -> AsyncIterator[None]:
    """Run a `composerd worker` process for all three types."""
    types = [word for name in ("depsolve", "osbuild", "summary") for word in ("--type", name)]
    arguments = ("worker", *types, "--arch", arch, "--server", url, "--", *TASKS)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "composerd.cli.main", *arguments, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        assert await process.wait() == 0


async def test_real_manifests(serve: Serve, tmp_path: Path) -> None:
    """Three manifests are depsolved and built for their architectures, with results in order and intact artifacts."""
    assert len(MANIFESTS) == 3
    server = await serve()
    manifests = {path.stem: path.read_bytes() for path in MANIFESTS}
    async with worker(server.url, "x86_64"), worker(server.url, "aarch64"), ComposerClient(server.url) as composer:
        jobs = await composer.submit_graph(graph(manifests))
        async with asyncio.timeout(60):
            ended = [await composer.wait(job.id) for job in jobs]
        assert [job.state for job in ended] == ["finished"] * 7
        builds = {job.id: job for job in ended if job.type == "osbuild"}
        for (name, args), job in zip(manifests.items(), builds.values(), strict=True):
            sources = json.loads(args)["manifest"]["sources"]["org.osbuild.curl"]["items"]
            assert job.arch == ("aarch64" if "aarch64" in name else "x86_64")
            assert await composer.args(job.id) == args.strip(), "args are kept byte for byte"
            artifacts = {one.name: one for one in await composer.artifacts(job.id)}
            assert set(artifacts) == {"SHA256SUMS", "packages.txt"}
            for one in artifacts.values():
                path = await composer.download(one, tmp_path, overwrite=True)
                content = path.read_bytes()
                assert hashlib.sha256(content).hexdigest() == one.sha256
                assert len(content) == one.size
            assert len((tmp_path / "packages.txt").read_text().splitlines()) == len(sources)
            sums = dict(line.split("  ")[::-1] for line in (tmp_path / "SHA256SUMS").read_text().splitlines())
            expected = {source["url"].rpartition("/")[2]: digest[7:] for digest, source in sources.items()}
            assert sums == expected
            assert job.result["packages"] == len(sources)
        summary = ended[-1]
        assert summary.dependencies == list(builds)
        assert summary.result == {"builds": 3, "packages": sum(job.result["packages"] for job in builds.values())}


async def test_results_reach_dependents_byte_for_byte(serve: Serve) -> None:
    """A dependent job gets the results of its dependencies unchanged, with key order, numbers and repeated keys."""
    server = await serve()
    result = b'{"b": 1.50, "a": 1e400, "b":"\\u0000", "n": ' + b"1" * 5000 + b"}"
    first = await server.submit()
    await server.submit("next", dependencies=[first["id"], first["id"]])
    job = await server.ask()
    assert job is not None
    status, _ = await server.request(
        "PATCH", job["location"], data=b'{"result": ' + result + b"}", headers={"Content-Type": "application/json"}
    )
    assert status == 200
    assert server._http is not None
    async with server._http.post(
        f"{server.url}/api/worker/v1/jobs", json={"types": ["next"], "arch": "x86_64"}
    ) as response:
        assert response.status == 201
        dynamic = msgspec.json.decode(await response.read(), type=dict[str, msgspec.Raw])["dynamic_args"]
    assert bytes(dynamic) == b"[" + result + b"," + result + b"]"


def left_in(directory: Path) -> list[Path]:
    """Return the entries of a directory."""
    return list(directory.iterdir())


@pytest.mark.row("Commands", "composerd demo")
async def test_the_demo(tmp_path: Path) -> None:
    """`composerd demo` succeeds, shows what it did, and leaves no files behind."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "composerd.cli.main",
        "demo",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr
    text = stdout.decode()
    for expected in ("osbuild   finished", "packages.txt", "checked", '{"builds":1,"packages":127}', "cleaned up"):
        assert expected in text
    assert not left_in(tmp_path)
