"""Real file systems for tests: images that are made with mkfs and mounted through loop devices.

A mount that a killed test run left behind is found with `findmnt --types ext4,xfs,btrfs` below the temporary directory.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ...conftest import _missing

KINDS = ("ext4", "xfs", "btrfs")
"""The file systems on disks that the product is tested on."""

_SMALLEST = {"ext4": 8 << 20, "xfs": 304 << 20, "btrfs": 112 << 20}
"""The smallest size in bytes of an image of each kind. The images are sparse, so a large one takes little room."""

_MKFS = {
    "ext4": ("-q", "-F", "-m0", "-E", "lazy_itable_init=0,lazy_journal_init=0"),  # no room that only root gets
    "xfs": ("-q", "-f"),
    "btrfs": ("-q", "-f"),
}


def make_image(kind: str, path: Path, size: int = 0) -> Path:
    """Make an image of a file system in a new file, or in place of an old one, and return its path.

    Without a size it has the smallest one of its kind.
    """
    with path.open("ab") as file:
        file.truncate(max(size, _SMALLEST[kind]))
    run(f"mkfs.{kind}", *_MKFS[kind], path)
    return path


@contextlib.contextmanager
def mounted(image: Path, at: Path, options: str = "") -> Iterator[Path]:
    """Mount an image at a directory, which is created, for the length of a block, and return the directory.

    `options` are those of `mount -o`, besides `loop`. A machine that cannot mount skips the test, or fails it in CI.
    """
    with mounted_by(at, "-o", ",".join(filter(None, ("loop", options))), str(image)):
        yield at


@contextlib.contextmanager
def mounted_by(at: Path, *arguments: str) -> Iterator[Path]:
    """Mount what the arguments of `mount` say at a directory, which is created, and return the directory.

    A machine that cannot mount skips the test, or fails it in CI.
    """
    at.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *arguments, at], env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        _missing(f"{at.name} cannot be mounted here: {done.stderr.strip()}")
    try:
        yield at
    finally:
        unmount(at)


@contextlib.contextmanager
def mounted_new(kind: str, directory: Path, size: int = 0, options: str = "") -> Iterator[Path]:
    """Mount a new file system of a kind at a new directory below `directory`, and return the mount point."""
    with mounted(make_image(kind, directory / f"{kind}.image", size), directory / kind, options) as at:
        yield at


def unmount(at: Path) -> None:
    """Unmount a directory, or only detach it if something still has files open there. Do nothing if it is not mounted.

    The kernel frees the loop device as soon as nothing uses it any more.
    """
    while f" {at} " in Path("/proc/self/mounts").read_text():  # `is_mount` cannot see one that has shut down
        plain = subprocess.run(["umount", at], env=_environment(), capture_output=True, check=False)
        if plain.returncode != 0:
            run("umount", "--lazy", at)


def remount(at: Path, options: str) -> None:
    """Mount a directory again with other options, for example `ro`."""
    run("mount", "-o", f"remount,{options}", at)


def run(program: str, *arguments: str | Path) -> str:
    """Run a program for administrators, and return what it wrote. Skip the test if it is missing, or fail it in CI."""
    path = shutil.which(program, path=_environment()["PATH"])
    if path is None:
        _missing(f"{program} is not installed")
    done = subprocess.run([path, *arguments], env=_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, (program, arguments, done.stderr)
    return done.stdout


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
