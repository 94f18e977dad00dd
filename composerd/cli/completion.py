"""`composerd completion`: scripts that let a shell complete composerd's commands and options."""

import click
from click.shell_completion import get_completion_class

PROGRAM = "composerd"
VARIABLE = "_COMPOSERD_COMPLETE"
"""The script sets this variable to get completions; click then prints them instead of running the command."""


@click.command(epilog="Example: composerd completion fish | source")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

    Evaluate it in the start-up file of the shell, for example: eval "$(composerd completion bash)".
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, PROGRAM, VARIABLE).source())
