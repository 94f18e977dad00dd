"""The command `composerd`: combines the subcommands."""

import importlib
from typing import NamedTuple

import click
from click.shell_completion import CompletionItem


class _Subcommand(NamedTuple):
    """A subcommand that is imported only when it is used, so that every command and every completion is fast."""

    module: str
    help: str
    """The short form of its help."""


_SUBCOMMANDS = {
    "serve": _Subcommand("serve", "Run the server."),
    "submit": _Subcommand("submit", "Submit a job of a TYPE or a graph of jobs, and print the IDs."),
    "wait": _Subcommand("jobs", "Wait until a job has ended."),
    "status": _Subcommand("jobs", "Show a job."),
    "jobs": _Subcommand("jobs", "List jobs, newest first."),
    "cancel": _Subcommand("jobs", "Cancel a job and the jobs that depend on it."),
    "delete": _Subcommand("jobs", "Delete an ended job and its artifacts now."),
    "why": _Subcommand("jobs", "Explain why a job is not running."),
    "artifacts": _Subcommand("jobs", "List or download the artifacts of a job."),
    "worker": _Subcommand("worker", "Request jobs from the server, and run COMMAND for each."),
    "login": _Subcommand("login", "Store who you are for a server in a profile."),
    "logout": _Subcommand("login", "Remove a profile and its secret."),
    "whoami": _Subcommand("login", "Show who the server takes you for."),
    "probe": _Subcommand("probe", "Try a server from outside, through the proxies in between."),
    "drivers": _Subcommand("drivers", "List installed storage drivers, and why any cannot be used."),
    "migrate": _Subcommand("storage", "Upgrade the format of a storage."),
    "storage": _Subcommand("storage", "Inspect, check, back up, salvage or move a storage."),
    "token": _Subcommand("token", "Create, list, verify, rotate and revoke tokens of a tokens file."),
    "completion": _Subcommand("completion", "Print the completion script for a shell."),
    "demo": _Subcommand("demo", "Run a demonstration with a server, workers and a few jobs."),
}


class _Commands(click.Group):
    """Lists subcommands without an import of them."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(_SUBCOMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        found = _SUBCOMMANDS.get(name)
        if found is None:
            return None
        command: click.Command = getattr(importlib.import_module(f"composerd.cli.{found.module}"), name)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.help) for name, one in _SUBCOMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        names = [name for name in _SUBCOMMANDS if name.startswith(incomplete)]
        found = [CompletionItem(name, help=_SUBCOMMANDS[name].help) for name in names]
        return found + click.Command.shell_complete(self, ctx, incomplete)


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="composerd")
def composerd() -> None:
    """Run a job server, submit jobs to it, and run workers.

    Workers on any machine request jobs from the server over HTTP.
    """
