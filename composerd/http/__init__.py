"""HTTP: the worker API and the composer API over a JobQueue. Knows no storage."""
