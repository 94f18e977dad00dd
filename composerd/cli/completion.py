"""`composerd completion`: scripts that let a shell complete composerd's commands, options and values."""

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command(epilog="Example: composerd completion fish | source")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

    Evaluate it in the start-up file of the shell, for example: eval "$(composerd completion bash)".
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(ctx.find_root().command, {}, "composerd", "_COMPOSERD_COMPLETE").source(), nl=False)
