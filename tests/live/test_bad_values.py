"""Bad values for each option, setting and field: one sentence that names it, and no effect."""

from collections.abc import Iterator

import click
import pytest

from composerd.cli.commands import composerd as program
from composerd.http.schemas import BatchJob
from composerd.settings import SETTINGS

from ..unit.test_settings import BAD
from .conftest import NOBODY, Server
from .test_bodies import WRONG_JOBS
from .test_cli import composerd

SAYS = {
    # option: (a bad value for it in every command, the text that the error contains)
    "--server": ("ftp://x", "ftp://x"),
    "--ca-file": ("/nowhere.pem", "/nowhere.pem"),
    "--cert-file": ("/nowhere.pem", "/nowhere.pem"),
    "--key-file": ("/nowhere.pem", "/nowhere.pem"),
    "--token-file": ("/nowhere", "/nowhere"),
    "--profile": ("nosuch", "nosuch"),
    "--oauth-token-url": ("ftp://x", "ftp://x"),
    "--oauth-client-secret-file": ("/nowhere", "/nowhere"),
    "--oauth-refresh-token-file": ("/nowhere", "/nowhere"),
    "--oauth-client-authentication": ("jwt", "--oauth-client-authentication"),
    "--oauth-ca-file": ("/nowhere.pem", "/nowhere.pem"),
    "--proxy": ("socks5://x", "socks5://x"),
    "--args": ("{", "--args"),
    "--graph": ("/nowhere.json", "/nowhere.json"),
    "--arch": ("a b", "arch"),
    "--channel": ("a b", "channel"),
    "--depends-on": (NOBODY, NOBODY),
    "--priority": ("101", "--priority"),
    "--not-before": ("tomorrow", "not_before"),
    "--timeout": ("soon", "timeout"),
    "--max-retries": ("-1", "--max-retries"),
    "--retry-on-failure": ("101", "--retry-on-failure"),
    "--on-dependency-failure": ("maybe", "--on-dependency-failure"),
    "--retention": ("for ever", "retention"),
    "--key": ("a b", "idempotency_key"),
    "--download": (__file__, "--download"),
    "--state": ("done", "--state"),
    "--type": ("a b", "type"),
    "--limit": ("0", "--limit"),
    "--concurrency": ("0", "--concurrency"),
    "--config": ("/nowhere.toml", "/nowhere.toml"),
    "--storage": ("nosuch:x", "nosuch"),
    "--from": ("nosuch:x", "nosuch"),
    "--to": ("nosuch:x", "nosuch"),
    "--artifacts": (__file__, "--artifacts"),
    "--from-artifacts": (__file__, "--from-artifacts"),
    "--to-artifacts": (__file__, "--to-artifacts"),
    "--manifest": ("/nowhere.json", "--manifest"),
    "--wait": ("soon", "--wait"),
    "--min-free-space": ("some", "--min-free-space"),
    "--stop-after": ("soon", "--stop-after"),
    "--name": ("a b", "--name"),
    "--role": ("king", "--role"),
    "--tenant": ("a b", "--tenant"),
    "--expires": ("soon", "--expires"),
    "--overlap": ("soon", "--overlap"),
    "--tokens": ("/nowhere/tokens", "/nowhere/tokens"),
    "--waiters": ("0", "--waiters"),
    "--size": ("large", "--size"),
}
ANY = ("--health-check", "--oauth-client-id", "--oauth-scope", "--oauth-audience", "--oauth-resource")
"""Options that take any text."""

SETTING = {setting.option: (BAD[setting.name], setting.option) for setting in SETTINGS}

REST = {
    # command: its other arguments
    "submit": ["build"],
    "wait": [NOBODY],
    "status": [NOBODY],
    "cancel": [NOBODY],
    "delete": [NOBODY],
    "why": [NOBODY],
    "artifacts": [NOBODY],
    "probe": ["http://127.0.0.1:1"],
    "login": ["http://127.0.0.1:1"],
    "worker": ["--type", "build", "--once", "--", "true"],
    "migrate": ["--storage", "memory:"],
    "storage info": ["--storage", "memory:"],
    "storage check": ["--storage", "memory:"],
    "storage backup": ["/nowhere"],
    "storage salvage": ["--storage", "memory:", "--to", "memory:"],
    "token create": ["--name", "a", "--role", "viewer", "--tokens", "/nowhere"],
    "token list": ["--tokens", "/nowhere"],
    "token verify": ["--tokens", "/nowhere"],
    "token rotate": ["a", "--tokens", "/nowhere"],
    "token revoke": ["a", "--tokens", "/nowhere"],
    "storage move": ["--from", "memory:", "--to", "memory:"],
}


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield the name and the object of each command."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def options() -> Iterator[tuple[str, str]]:
    """Yield each command with each of its options that take a value."""
    for name, command in commands(program):
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.is_flag and parameter.opts[0] not in ANY:
                yield name, parameter.opts[0]


@pytest.mark.parametrize(("command", "option"), list(options()))
async def test_options(server: Server, command: str, option: str) -> None:
    """A bad value is one sentence on stderr that names the option, exit code 1 or 2, and no job is stored."""
    value, named = (SETTING if command == "serve" and option in SETTING else SAYS)[option]
    rest = [] if option == "--graph" else REST.get(command, [])
    if option in ("--ca-file", "--cert-file", "--key-file"):
        elsewhere = "https://127.0.0.1:1"
        rest = [elsewhere] if command in ("probe", "login") else ["--server", elsewhere, *rest]
    if option.startswith("--oauth-"):
        rest = [*rest, "--oauth-token-url", "https://127.0.0.1:1", "--oauth-client-id", "a"]
    if command == "login" and option == "--profile":
        value, named = "a b", "a b"
    if command == "submit" and option == "--download":
        rest = ["--wait", *rest]
    given = (*rest[:-2], option, value, *rest[-2:]) if "--" in rest else (*rest, option, value)
    ended = await composerd(*command.split(), *given, server=None if command == "serve" else server)
    assert ended.code in (1, 2), ended
    assert ended.err.count("\n") == 1, ended.err
    assert named in ended.err
    assert (await server.request("GET", "/api/composer/v1/jobs"))[1]["items"] == []


def test_every_field_has_a_wrong_shape() -> None:
    """The table of wrong jobs, which `test_jobs_of_the_wrong_shape` uses, contains every field."""
    fed = {field.partition("[")[0] for _, field in WRONG_JOBS.values()}
    # Any JSON is valid for args; another test covers invalid JSON.
    assert set(BatchJob.__struct_fields__) - fed - {"args"} == set()
