"""`composerd completion`: scripts that let a shell complete composerd's commands, options and values."""

import click

from composerd.cli.completing.shells import script


@click.command(epilog="Example: composerd completion fish | source")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for a shell.

    Evaluate it in the start-up file of the shell, for example: eval "$(composerd completion bash)".
    """
    click.echo(script(shell), nl=False)
