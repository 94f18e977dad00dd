"""News between the servers of one database: changes, the listening connection, and claim hints."""
