"""The HTTP layer: the worker API and the composer API over a `JobQueue`. It knows no storage."""
