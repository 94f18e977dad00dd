"""Finds the executable file of a command, and says why it cannot be executed before a job is taken for it."""

import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

_HEAD = 512
"""Number of bytes at the beginning of a file that are read."""


def find_executable(name: str) -> str:
    """Return the absolute path of the file that a command's first word names.

    A name with a slash is a path, from the current directory if it is relative; any other is looked up in `PATH`.
    Raises `ValueError` with a sentence if the file cannot be executed.
    """
    if not name:
        raise ValueError("the command is empty")
    if "/" in name:
        path = os.path.abspath(name)  # noqa: PTH100  # keeps links, whose names some programs look at
    elif (found := shutil.which(name)) is not None:
        path = os.path.abspath(found)  # noqa: PTH100
    else:
        raise ValueError(f"the command {name!r} was not found in PATH; give its path, or install it")
    problem = problem_with_executable(path)
    if problem is not None:
        raise ValueError(problem)
    return path


def problem_with_executable(path: str) -> str | None:
    """Return a sentence that says why a file cannot be executed now, or None."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
        if stat.S_ISDIR(mode):
            return f"the command {path!r} is a directory"
        if not stat.S_ISREG(mode):
            return f"the command {path!r} is not a file"
        if not os.access(path, os.X_OK):
            return f"the command {path!r} is not executable by this user; change that with chmod +x"
    except (OSError, ValueError) as exc:  # ValueError: a name with a null character
        return f"the command {path!r} cannot be executed: {getattr(exc, 'strerror', None) or exc}"
    try:
        with Path(path).open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None  # a file that may be executed need not be readable, unless it is a script
    return _problem_with_head(path, head)


def _problem_with_head(path: str, head: bytes) -> str | None:
    """Return what is wrong with the beginning of a file; only scripts are looked at."""
    if head.startswith(b"#!"):
        return _problem_with_interpreter(path, os.fsdecode(head[2:].split(b"\n", 1)[0]))
    if not head:
        return f"the command {path!r} is an empty file"
    if b"\0" in head:
        return None
    return f"the command {path!r} is a text without a first line such as #!/bin/sh, which names its interpreter"


def _problem_with_interpreter(path: str, line: str) -> str | None:
    words = line.split(None, 1)
    interpreter = words[0] if words else ""
    if line.endswith("\r"):
        return f"the lines of the command {path!r} end with CR LF, so its interpreter is not found; end them with LF"
    if not os.path.isfile(interpreter) or not os.access(interpreter, os.X_OK):  # noqa: PTH113  # raises no error
        return f"the interpreter {interpreter!r} in the first line of the command {path!r} was not found"
    program = words[1].strip() if len(words) > 1 else ""
    if Path(interpreter).name == "env" and program.isidentifier() and shutil.which(program) is None:
        return f"the interpreter {program!r} in the first line of the command {path!r} was not found in PATH"
    return None


def relative_files(arguments: Sequence[str]) -> list[str]:
    """Return those of a command's arguments that name a file in the current directory.

    The command runs in a scratch directory, where it does not find them.
    """
    # A script as an argument may be too long for a name of a file, and `Path.is_file` raises an error then.
    return [each for each in arguments if not each.startswith(("/", "-")) and os.path.isfile(each)]  # noqa: PTH113
