"""Jobs and attempts in memory, and the commands and queries on them. Nothing here does I/O."""
