"""News between the servers of one database: what changed, the connection that listens, and hints for claims."""
