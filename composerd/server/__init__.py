"""The server process: sockets, TLS, logs, metrics, and the supervisor of several processes."""
