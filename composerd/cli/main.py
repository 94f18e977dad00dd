"""The command `composerd`: puts the subcommands together, and lets no traceback reach a user."""

import importlib
import sys
from collections.abc import Sequence

import click

_COMMANDS = {
    "serve": "composerd.cli.serve",
    "submit": "composerd.cli.submit",
    "wait": "composerd.cli.jobs",
    "status": "composerd.cli.jobs",
    "jobs": "composerd.cli.jobs",
    "cancel": "composerd.cli.jobs",
    "delete": "composerd.cli.jobs",
    "why": "composerd.cli.jobs",
    "artifacts": "composerd.cli.jobs",
    "worker": "composerd.cli.worker",
    "drivers": "composerd.cli.drivers",
    "migrate": "composerd.cli.storage",
    "storage": "composerd.cli.storage",
    "completion": "composerd.cli.completion",
    "demo": "composerd.cli.demo",
}
"""Each subcommand's module; imported when it is asked for, so that every command starts fast."""


class _Commands(click.Group):
    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        module = _COMMANDS.get(name)
        if module is None:
            return None
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="composerd")
def composerd() -> None:
    """Hand jobs to workers: submit a job, and a worker anywhere that asks for it over HTTP runs it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ends the process."""
    try:
        code = composerd.main(args=arguments, prog_name="composerd", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as exc:
        click.echo(exc.format_message(), err=True)
        sys.exit(exc.exit_code)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as exc:
        click.echo(f"composerd: {exc.format_message()}", err=True)
        sys.exit(exc.exit_code)
    except click.exceptions.Exit as exc:
        sys.exit(exc.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
