"""Writes the last segment again at a start after a crash, because nothing that is read then is known to be on the disk.

After a failed write the kernel keeps the data in memory, marks it as written, and lets the next fdatasync succeed. So a
frame may be read that the disk does not have. Only the last segment can have one: nothing follows a failed flush.

The segment is written to a new file. In the old one ext4 may lose the data again, because it takes the blocks of a
failed write for written ones, and so they read as zeros after the memory is reused.
"""

import os

from composerd.directory import Directory
from composerd.file_errors import is_full

_AT_ONCE = 1024 * 1024


def renew(directory: Directory, name: str) -> None:
    """Replace a segment by a copy that is on stable storage. Without room for it, make sure that the disk is read.

    It blocks, and raises `OSError`.
    """
    try:
        with directory.reading(name) as segment, directory.create(name) as copy:
            # Not copy_file_range, which may let both files share the blocks.
            while part := segment.read(_AT_ONCE):
                copy.write(part)
            directory.publish(copy, name)
    except OSError as exc:
        directory.discard(name)
        if not is_full(exc):
            raise
        _forget(directory, name)


def _forget(directory: Directory, name: str) -> None:
    """Drop a file from the kernel's memory, so that it is read from the disk."""
    with directory.opened(name, os.O_RDONLY) as descriptor:
        try:
            os.fdatasync(descriptor)
        except OSError:
            os.fdatasync(descriptor)  # the first reports an error of the process that has crashed
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
