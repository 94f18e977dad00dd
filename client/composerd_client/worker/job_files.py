"""The files of a job's command, read without trusting the command: no links are followed, and no pipe is waited for."""

import contextlib
import os
import stat
from collections.abc import Iterator
from io import BufferedReader

from composerd_client.connection import LARGEST_PAYLOAD
from composerd_client.job_context import JobContext
from composerd_client.worker.scratch import DIRECTORY, Scratch
from composerd_protocol.file_names import problem_with
from composerd_protocol.units import format_size

LARGEST_PROGRESS = 32 * 1024**2
"""Bytes of progress that are read at once; of more, only the end is read."""

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Refused(Exception):  # nothing has failed
    """A file that is not used; the message says why, as the end of a sentence that begins with its name."""


class JobFiles:
    """The scratch directory of one job. Its methods block.

    The command may replace everything below the directory at any time, so each name is looked up from the descriptor
    of the directory above it.
    """

    def __init__(self, job: JobContext) -> None:
        """Create the directory, and in it what the command gets. Raises `OSError`."""
        self.scratch = Scratch()
        self.path = self.scratch.path
        self._descriptor = self.scratch.descriptor
        try:
            (self.path / "work").mkdir()
            (self.path / "artifacts").mkdir()
            (self.path / "progress").touch()
            (self.path / "dynamic_args.json").write_bytes(job.dynamic_args_json)
            self.progress = Progress((self.path / "progress").open("rb"))
        except BaseException:
            self.scratch.close()
            raise

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that tell the command the paths of its files."""
        return {
            "COMPOSERD_JOB_DYNAMIC_ARGS": str(self.path / "dynamic_args.json"),
            "COMPOSERD_JOB_ARTIFACTS": str(self.path / "artifacts"),
            "COMPOSERD_JOB_RESULT": str(self.path / "result.json"),
            "COMPOSERD_JOB_PROGRESS": str(self.path / "progress"),
        }

    def close(self) -> None:
        """Remove the directory with everything in it."""
        self.progress.close()
        self.scratch.close()

    def result(self) -> bytes | None:
        """Return what the command wrote into the file for the result; None without the file. Raises `Refused`."""
        try:
            file = _open_regular(self._descriptor, "result.json")
        except FileNotFoundError:
            return None
        with file:
            if os.fstat(file.fileno()).st_size > LARGEST_PAYLOAD:
                raise Refused(f"is larger than {format_size(LARGEST_PAYLOAD)}")
            return file.read(LARGEST_PAYLOAD)

    @contextlib.contextmanager
    def artifacts(self) -> Iterator["Artifacts"]:
        """Open the directory of the artifacts for a block. Raises `OSError` if it is not a directory any more."""
        directory = os.open("artifacts", DIRECTORY, dir_fd=self._descriptor)
        try:
            yield Artifacts(directory)
        finally:
            os.close(directory)


class Artifacts:
    """The open directory of a job's artifacts. Its methods block."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._owner = os.fstat(descriptor).st_uid

    def names(self) -> list[str]:
        """Return the names of the files, sorted."""
        return sorted(os.listdir(self._descriptor))  # noqa: PTH208  # pathlib knows no descriptors

    def open(self, name: str) -> BufferedReader:
        """Open a file that may become an artifact. Raises `Refused`.

        A hard link is refused if the file is not of the user who owns the directory: the command may have made a link
        to a file that it cannot read. It gains nothing from a link to a file of its own user.
        """
        if (problem := problem_with(name)) is not None:
            raise Refused(f"is not the name of an artifact, which {problem}")
        try:
            file = _open_regular(self._descriptor, name)
        except (FileNotFoundError, PermissionError, NotADirectoryError) as exc:
            raise Refused(f"cannot be opened: {exc.strerror}") from exc
        found = os.fstat(file.fileno())
        if found.st_nlink > 1 and found.st_uid != self._owner:
            file.close()
            raise Refused("is a hard link to a file of another user")
        return file


class Progress:
    """The lines that the command appends to the file for its progress. The file is opened before the command starts."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self._rest = b""
        """The beginning of a line whose end is not written yet."""
        self._skipping = False
        """True until the end of a line whose beginning was not read."""

    def lines(self, *, ended: bool = False) -> list[bytes]:
        """Return the lines that were completed since the last call; with `ended`, the last one needs no line feed."""
        if os.fstat(self._file.fileno()).st_size - self._file.tell() > LARGEST_PROGRESS:
            self._file.seek(-LARGEST_PROGRESS, os.SEEK_END)
            self._rest, self._skipping = b"", True
        appended = self._rest + self._file.read(LARGEST_PROGRESS) + (b"\n" if ended else b"")
        *lines, self._rest = appended.split(b"\n")
        if self._skipping and lines:
            del lines[0]
            self._skipping = False
        if self._skipping or len(self._rest) > LARGEST_PROGRESS:
            self._rest, self._skipping = b"", True
        return lines

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _open_regular(directory: int, name: str) -> BufferedReader:
    """Open a regular file. Raises `Refused` for anything else, which is not opened, and `OSError`."""
    _check_kind(os.stat(name, dir_fd=directory, follow_symlinks=False))
    descriptor = os.open(name, _FILE, dir_fd=directory)
    try:
        _check_kind(os.fstat(descriptor))  # another one may have taken the name meanwhile
        return open(descriptor, "rb")  # noqa: PTH123  # of a descriptor; the caller closes it
    except BaseException:
        os.close(descriptor)
        raise


def _check_kind(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise Refused(f"is {_KINDS.get(stat.S_IFMT(found.st_mode), 'not a file')}, not a regular file")
