"""The command line: the command `composerd`, with a module for each group of subcommands."""
