"""Completion of command lines in shells, without an import of click, of the commands, or of the server.

A completion has to appear while somebody types, so it reads `commands.json` instead of the commands: what `describe`
has written about them.
"""

VARIABLE = "_COMPOSERD_COMPLETE"
"""The scripts of the shells set this variable to the name of the shell and `_complete`."""
