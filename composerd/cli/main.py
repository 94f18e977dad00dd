"""The start of the command `composerd`: it completes a word for a shell, or runs a command."""

import os
from collections.abc import Sequence

from composerd.cli.completing import VARIABLE


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, and exit. Only what is needed is imported, because a completion has to be fast."""
    if VARIABLE in os.environ:
        from composerd.cli.completing.shells import complete  # noqa: PLC0415

        complete(os.environ)
    else:
        from composerd.cli.commands import run  # noqa: PLC0415

        run(arguments)


if __name__ == "__main__":
    main()
