"""The memory of a process that holds secrets, kept from other processes and from core dumps."""

_PR_SET_DUMPABLE = 4


def keep_memory_private() -> None:
    """Let only root read the memory and the environment of this process, and let a crash write no core dump.

    Programs that it starts are as readable as ever. Without this, the command of a job could read the token of the
    worker in its memory or in `/proc/PID/environ`, because both run as one user. It does nothing on a system that knows
    no such thing.
    """
    try:
        import ctypes  # noqa: PLC0415  # some builds of Python have none

        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    except (ImportError, OSError, AttributeError, MemoryError):
        return
