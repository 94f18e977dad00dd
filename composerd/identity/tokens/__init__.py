"""Bearer tokens from a file: the lines of the file, changes of it, and the source of identities that reads it."""
