"""The storage drivers "fs" (a table in memory and a journal on disk) and "memory" (the table alone)."""
