"""The start of the command `composerd`: runs or completes a command, and prints errors without a traceback."""

import errno
import io
import os
import sys
from collections.abc import Sequence

import click

from composerd.cli.commands import composerd
from composerd.cli.completing import shells
from composerd_protocol.exit_codes import FAILED, WRONG
from composerd_protocol.private_memory import keep_memory_private


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, and exit; or complete it, if a shell has set the variable that click looks at."""
    keep_memory_private()
    shells.register()
    if sys.stdout is None or sys.stderr is None:  # closed by the parent process
        sys.stdout, sys.stderr = (
            stream or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # closed when the process exits
            for stream in (sys.stdout, sys.stderr)
        )
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # do not fail if a terminal cannot show a name
    code = _run(arguments)
    try:
        sys.stdout.flush()
    except OSError as exc:
        code = _not_written(exc)
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    """Run a command, and return its exit code."""
    code: object
    try:
        code = composerd.main(args=arguments, prog_name="composerd", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as exc:
        click.echo(exc.format_message(), err=True)
        code = exc.exit_code
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as exc:
        from composerd_protocol.escaping import without_bearer_tokens  # noqa: PLC0415  # most end without an error
        from composerd_protocol.journald import error_for_stderr  # noqa: PLC0415

        click.echo(error_for_stderr(f"composerd: {without_bearer_tokens(exc.format_message())}"), err=True)
        code = exc.exit_code
    except click.exceptions.Exit as exc:
        code = exc.exit_code
    except UnicodeEncodeError as exc:
        click.echo(f"composerd: {exc.object!r} is not UTF-8", err=True)
        code = WRONG
    except OSError as exc:
        code = _not_written(exc)
    return code if isinstance(code, int) else 0


def _not_written(error: OSError) -> int:
    """Report that the output cannot be written, unless the reader of a pipe has closed it; return the exit code."""
    if error.errno != errno.EPIPE:
        click.echo(f"composerd: cannot write the output: {error.strerror}", err=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # discards buffered output, which is flushed at exit
    return FAILED


if __name__ == "__main__":
    main()
