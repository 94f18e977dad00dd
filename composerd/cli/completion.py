"""`composerd completion`: what a shell needs to complete composerd's commands and options."""

import click
from click.shell_completion import get_completion_class

PROGRAM = "composerd"
VARIABLE = "_COMPOSERD_COMPLETE"
"""Set by the script when the shell asks; click answers then."""


@click.command(epilog='Example: composerd completion fish | source; eval "$(composerd completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell, to be evaluated in its start-up file."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, PROGRAM, VARIABLE).source())
