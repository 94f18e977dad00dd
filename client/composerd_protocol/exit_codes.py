"""The exit codes of commands, which tell scripts what happened."""

FAILED = 1
"""The job or the request failed."""
WRONG = 2
"""The command line or the configuration is wrong."""
UNREACHABLE = 3
"""The server cannot be reached or is unavailable."""
TIMED_OUT = 4
"""The timeout of a wait is over."""
