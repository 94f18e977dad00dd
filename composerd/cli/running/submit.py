"""`composerd submit`: submits a job from the command line, or a graph of jobs from a file."""

import os
import re
import sys
import tomllib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import click
import msgspec

from composerd.cli.errors import Failure
from composerd.cli.running.console import print_jobs, print_json, run, say
from composerd.cli.running.jobs import PATIENCE, download, follow, show_ends
from composerd.cli.server import Server
from composerd_client import ComposerClient, GraphJob, OutcomeUnknown, ProxyAnswered, RequestFailed, ServerUnreachable
from composerd_client.downloads import checked
from composerd_client.idempotency import keyed
from composerd_client.repeating import may_pass
from composerd_client.submitted_job import submitted
from composerd_protocol.escaping import escaped
from composerd_protocol.exit_codes import FAILED, UNREACHABLE, WRONG

_PATH = re.compile(r"[\w./~-]*(?:/[\w.-]+|\w\.[A-Za-z]\w*)")
"""A text that looks like the path of a file, such as `args.json` or `./args`."""

T = TypeVar("T")

_TOO_MANY = 429
"""Status of a refusal because of a quota that has room again later."""

_ASKED_FOR = 20.0
"""Seconds for which a submission is repeated if it is unknown whether it was stored."""


class _Downloads(NamedTuple):
    """The options for downloads."""

    directory: Path
    overwrite: bool


def submit(
    job_type: str | None,
    args_text: str | None,
    graph: Path | None,
    waits: bool,
    directory: Path | None,
    overwrite: bool,
    server: Server,
    as_json: bool,
    **fields: Any,
) -> None:
    """Submit a job of a TYPE or a graph of jobs, and print the IDs."""
    if (job_type is None) == (graph is None):
        raise Failure("give a TYPE, or --graph with a file of jobs", WRONG)
    if directory is not None and not waits:
        raise Failure("--download needs --wait: a job has no artifacts before it has ended", WRONG)
    downloads = None if directory is None else _Downloads(directory, overwrite)
    given = {name: value for name, value in fields.items() if value not in (None, ())}
    if graph is not None:
        if args_text is not None:
            given["args"] = args_text
        if given:
            names = ", ".join(given)
            raise Failure(f"--graph cannot be combined with options for a job: write into the file: {names}", WRONG)
        run(_submit_graph(server, _read_graph(graph), waits, downloads, as_json))
        return
    args = msgspec.UNSET if args_text is None else _read_args(args_text)
    run(_submit(server, {"type": job_type, "args": args, **given}, waits, downloads, as_json))


async def _submit(
    server: Server, fields: dict[str, Any], waits: bool, downloads: _Downloads | None, as_json: bool
) -> None:
    fields = keyed(fields)
    repeat = f"run the command again with --key {fields['idempotency_key']}, which makes no second job"
    job = await _stored(server, lambda composer: composer.submit(**fields), repeat)
    checked(job.id)
    if not waits:
        if as_json:
            async with server.composer() as composer:
                print_json(await composer.get_json(job.id))
        else:
            say(job.id)
        return
    say(job.id, err=True)
    async with server.composer(PATIENCE) as composer:
        ended = await follow(composer, job.id)
        if downloads is not None:
            found = await composer.artifacts(job.id)
            await download(composer, found, downloads.directory, overwrite=downloads.overwrite)
        await show_ends(composer, [ended], as_json)


async def _submit_graph(
    server: Server, graph: Sequence[GraphJob], waits: bool, downloads: _Downloads | None, as_json: bool
) -> None:
    if all("idempotency_key" in job for job in graph):
        repeat = "run the command again, which makes no second job because of the keys"
    else:
        repeat = (
            "look with `composerd jobs` before you run the command again; "
            "with an idempotency_key for each job you need not look"
        )
    jobs_with_keys = cast("list[GraphJob]", [keyed(job) for job in graph])
    jobs = await _stored(server, lambda composer: composer.submit_graph(jobs_with_keys), repeat)
    ids = [checked(job.id) for job in jobs]  # they become parts of paths, here and on the server
    if not waits:
        if as_json:
            print_jobs(jobs, "batch")
        else:
            for job in jobs:
                say(job.id)
        return
    for given, job in zip(graph, jobs, strict=True):  # now, so that somebody who stops waiting has the ids
        click.echo("\t".join(escaped(str(one)) for one in (job.id, job.type, given.get("ref", ""))), err=True)
    async with server.composer(PATIENCE) as composer:
        ended = [await follow(composer, one) for one in ids]
        if downloads is not None:
            for one in ids:
                if found := await composer.artifacts(one):
                    await download(composer, found, downloads.directory / one, overwrite=downloads.overwrite)
        await show_ends(composer, ended, as_json)


async def _stored(server: Server, submit: Callable[[ComposerClient], Awaitable[T]], repeat: str) -> T:
    """Submit jobs that have idempotency keys, and submit them again if it is unknown what became of them.

    So are those that are over a quota that has room again later.

    Fails at once if the server is unreachable from the start. `repeat` says how to repeat the command.
    """
    async with server.composer() as composer:
        try:
            return await submit(composer)
        except (RequestFailed, ServerUnreachable) as exc:
            again = exc.sent if isinstance(exc, ServerUnreachable) else _again(exc)
            if not again:
                raise
    async with server.composer(_ASKED_FOR) as composer:
        try:
            return await submit(composer)
        except (OutcomeUnknown, ProxyAnswered, ServerUnreachable) as exc:
            stored = isinstance(exc, OutcomeUnknown)
            said = "the server's storage did not answer" if stored else str(exc)
            code = FAILED if stored else UNREACHABLE
            raise Failure(f"{said}: the job may have been stored or not; {repeat}", code) from exc


def _again(refusal: RequestFailed) -> bool:
    """Return True if a submission that was refused is sent again."""
    return may_pass(refusal) and (isinstance(refusal, OutcomeUnknown | ProxyAnswered) or refusal.status == _TOO_MANY)


def _read_args(text: str) -> msgspec.Raw:
    """Read JSON from an option's value, a file or stdin; it is sent to the server byte for byte."""
    if text == "-":
        source, data = "stdin", sys.stdin.buffer.read()
    elif text.startswith("@"):
        path = Path(text[1:])
        try:
            source, data = str(path), path.read_bytes()
        except OSError as exc:
            hint = "; to read stdin write --args -" if text == "@-" else ""
            raise Failure(f"--args: {path}: {exc.strerror}{hint}", WRONG) from exc
    else:
        source, data = "--args", os.fsencode(text)
    try:
        str(data, "utf-8")
        return msgspec.json.decode(data, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        if source == "--args" and _is_path(text):
            raise Failure(f"--args: {text} is not JSON; to read a file write --args @{text}", WRONG) from exc
        raise Failure(f"{source} is not JSON: {exc}", WRONG) from exc


def _is_path(text: str) -> bool:
    """Return True if a text is the path of a file, or looks like one."""
    try:
        return Path(text).is_file() or _PATH.fullmatch(text) is not None
    except ValueError:  # a null byte
        return False


def _read_graph(path: Path) -> list[GraphJob]:
    try:
        data = path.read_bytes()
        content = tomllib.loads(data.decode()) if path.suffix == ".toml" else msgspec.json.decode(data)
    except OSError as exc:
        raise Failure(f"{path}: {exc.strerror}", WRONG) from exc
    except tomllib.TOMLDecodeError as exc:
        raise Failure(f"{path} is not TOML: {exc}", WRONG) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        hint = "" if path.suffix in (".json", ".toml") else "; write the jobs as JSON, or as TOML in a file *.toml"
        raise Failure(f"{path} is not JSON: {exc}{hint}", WRONG) from exc
    jobs = content.get("jobs") if isinstance(content, dict) else content
    if not isinstance(jobs, list) or not all(isinstance(job, dict) for job in jobs):
        raise Failure(f'{path} has no list of jobs: write {{"jobs": [{{"ref": "a", "type": "…"}}, …]}}', WRONG)
    return [_checked(path, number, job) for number, job in enumerate(jobs, 1)]


def _checked(path: Path, number: int, job: Mapping[str, Any]) -> GraphJob:
    try:
        return cast("GraphJob", submitted(job))
    except (TypeError, ValueError) as exc:
        raise Failure(f"{path}: job {number}: {exc}", WRONG) from exc
