"""Small file systems of several kinds that a test can fill."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from .mounts import mounted_by, mounted_new, run

SMALL_DISKS = ("ext4", "overlay", "xfs", "btrfs", "btrfs-zstd", "btrfs-quota", "tmpfs")
"""File systems that can be full: an overlay is on ext4, and `btrfs-quota` is a subvolume whose quota is 40 MB."""

_SIZES = {"ext4": 32 << 20, "overlay": 32 << 20, "btrfs-quota": 400 << 20}
"""Sizes in bytes of images that do not have the smallest possible size."""


@contextlib.contextmanager
def small_disk(kind: str, directory: Path) -> Iterator[Path]:
    """Mount a small empty file system below a directory, and return a directory on it."""
    with contextlib.ExitStack() as stack:
        if kind == "tmpfs":
            yield stack.enter_context(mounted_by(directory / kind, "-t", "tmpfs", "-o", "size=16m", "tmpfs"))
            return
        options = "compress=zstd" if kind == "btrfs-zstd" else ""
        base = {"overlay": "ext4"}.get(kind, kind.partition("-")[0])
        size = _SIZES.get(kind, 0)
        disk = stack.enter_context(mounted_new(base, directory, size, options))
        if kind == "btrfs-quota":
            run("btrfs", "quota", "enable", disk)
            run("btrfs", "subvolume", "create", disk / "limited")
            set_quota(disk / "limited", "40M")
            disk = disk / "limited"
        elif kind == "overlay":
            parts = [disk / name for name in ("lower", "upper", "work")]
            for part in parts:
                part.mkdir()
            layers = "lowerdir={},upperdir={},workdir={}".format(*parts)
            disk = stack.enter_context(mounted_by(directory / kind, "-t", "overlay", "-o", layers, "overlay"))
        yield disk


def set_quota(subvolume: Path, limit: str) -> None:
    """Limit the size of a btrfs subvolume."""
    run("btrfs", "qgroup", "limit", limit, subvolume)


def fill(disk: Path) -> Path:
    """Take all the room of a file system, and return the file that has it."""
    path = disk / "ballast"
    size = 0
    with path.open("wb") as file:
        for step in (64 << 20, 1 << 20, 64 << 10, 4 << 10):
            with contextlib.suppress(FullError):
                while True:
                    _extend(file.fileno(), size, step)
                    size += step
    return path


class FullError(Exception):
    """The file system is full."""


def _extend(descriptor: int, size: int, step: int) -> None:
    try:
        os.posix_fallocate(descriptor, size, step)
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise FullError from exc
