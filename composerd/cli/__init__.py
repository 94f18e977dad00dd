"""The command line: one command, `composerd`, a module for each group of subcommands."""
