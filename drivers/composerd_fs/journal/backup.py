"""Copies a journal as it is at one moment into another directory, while a server may go on writing to it.

The checkpoint and the segments from before it are never written to again, also not by a server on the copy: they become
hard links where that is possible. The other segments are always copied: a server appends to the last one, and
after a crash, or without room for a new one, to one before it.
"""

from contextlib import closing

from composerd.directory import Directory
from composerd.errors import Unavailable
from composerd_fs.journal.clock_file import CLOCK
from composerd_fs.journal.files import JournalFiles
from composerd_fs.journal.layout import Marker, checkpoint_name, leave_marker, remove_marker, segment_name
from composerd_fs.journal.reader import Reader, ignore
from composerd_fs.journal.secret_file import SECRET

_TRIES = 20
"""Maximum number of attempts while a server removes segments that are to be linked or copied."""


def back_up(source: Directory, target: Directory) -> None:
    """Copy a journal into a directory, which is empty. It blocks.

    The copy ends with the marker of a clean stop, so that one that is cut off later is not taken for a crash. Raises
    `StorageUnusable` if the journal is damaged, and `OSError`.
    """
    for _ in range(_TRIES):
        with closing(JournalFiles(source)) as files:
            files.hold()
            try:
                _copy(files, target)
            except FileNotFoundError:
                continue
            return
    raise Unavailable(f"the files in {source.path} change too fast to be copied: try again later")


def _copy(files: JournalFiles, target: Directory) -> None:
    """Copy the files that are held. Raises `FileNotFoundError` if one that is not held was removed."""
    end = Reader(files, repair=False).read(ignore)
    remove_marker(target)
    kept = [segment_name(number) for number in files.old]
    if files.checkpoint:
        kept.append(checkpoint_name(files.checkpoint))
    for name in kept:
        target.share(files.directory, name)
    for number in files.read:
        if number <= end.segment:
            name = segment_name(number)
            with files.opened(name) as (file, size):
                target.copy(file, name, end.offset if number == end.segment else size)
            kept.append(name)
    for name in target.names():
        if name not in kept:
            target.remove(name)
    for name in (CLOCK, SECRET):
        if files.directory.exists(name):
            with files.directory.reading(name) as file:
                target.write(name, file.read())
    if end.segment:
        leave_marker(target, Marker(end.segment, end.offset))
    target.sync()
