"""composerd: a job server with long-polling workers and pluggable storage."""
