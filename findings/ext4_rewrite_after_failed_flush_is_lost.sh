#!/usr/bin/env bash
# Linux 6.18.44, ext4 and xfs: bytes whose flush failed once can be written again and flushed "well", and still be lost.
#
# An appended block fails once with EIO while fdatasync writes it. A program that does not give up writes the same bytes
# again at the same offset, and calls fdatasync again, which answers 0. Reading the file shows the bytes. But on ext4 the
# disk does not have them: the block was allocated for the first write, its extent was never marked as written, and the
# second write does not repeat that. After the cache is gone, the file has its full length and zeros in that place. On xfs
# the second write arrives. So writing again in place proves nothing; a copy in a new file does.
#
# The disk is a file that a FUSE program shows and that a loop device uses; the program fails one write. Needs root,
# /dev/fuse, and loop devices. mfusepy 3.1.1 from PyPI.
#
# Output seen: "ext4: first flush EIO, second flush ok, cache: the bytes, disk: 4096 zeros at the failed block"
#              "xfs: first flush EIO, second flush ok, cache: the bytes, disk: the bytes"
set -euo pipefail

scratch=$(mktemp -d)
clean_up() {
    for at in copy file disk; do mountpoint -q "$scratch/$at" && umount -l "$scratch/$at"; done
    rm -rf "$scratch"
}
trap clean_up EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install -q mfusepy==3.1.1

cat > "$scratch/disk.py" <<'PYTHON'
"""Show a file as MOUNT/image; the next write that contains MARK fails with EIO once the file ARM exists."""
import errno
import os
import sys

from mfusepy import FUSE, FuseOSError, Operations

MARK = b"this block fails"


class Disk(Operations):
    use_ns = True

    def __init__(self, image, arm):
        self.file, self.arm = os.open(image, os.O_RDWR), arm

    def getattr(self, path, fh=None):
        if path == "/":
            return {"st_mode": 0o040755, "st_nlink": 2}
        if path != "/image":
            raise FuseOSError(errno.ENOENT)
        return {"st_mode": 0o100600, "st_nlink": 1, "st_size": os.fstat(self.file).st_size}

    def open(self, path, flags):
        return 0

    def read(self, path, size, offset, fh):
        return os.pread(self.file, size, offset)

    def write(self, path, data, offset, fh):
        if os.path.exists(self.arm) and MARK in data:
            os.unlink(self.arm)
            raise FuseOSError(errno.EIO)
        return os.pwrite(self.file, data, offset)


FUSE(Disk(sys.argv[1], sys.argv[3]), sys.argv[2], foreground=True, nothreads=True)
PYTHON

cat > "$scratch/write.py" <<'PYTHON'
"""Append a block whose flush fails, write it again, and say what the flushes answered and what the file shows."""
import os
import sys

path, arm = sys.argv[1:]
block = b"this block fails".ljust(4096, b".")
file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
os.pwrite(file, b"." * 4096, 0)
os.fsync(file)
open(arm, "w").close()
said = []
for _ in range(2):
    os.pwrite(file, block, 4096)
    try:
        os.fdatasync(file)
        said.append("ok")
    except OSError as exc:
        said.append("EIO" if exc.errno == 5 else str(exc))
shown = "the bytes" if os.pread(file, 4096, 4096) == block else "something else"
print(f"first flush {said[0]}, second flush {said[1]}, cache: {shown}", end="")
PYTHON

try() {
    local kind=$1
    truncate -s 512M "$scratch/image"
    "mkfs.$kind" -q "$scratch/image"
    mkdir -p "$scratch/disk" "$scratch/file" "$scratch/copy"
    "$scratch/venv/bin/python" "$scratch/disk.py" "$scratch/image" "$scratch/disk" "$scratch/arm" &
    until mountpoint -q "$scratch/disk"; do sleep 0.1; done
    mount -o loop "$scratch/disk/image" "$scratch/file"
    echo -n "$kind: "
    "$scratch/venv/bin/python" "$scratch/write.py" "$scratch/file/data" "$scratch/arm"
    cp --sparse=always "$scratch/image" "$scratch/image.copy"  # the disk, as a power cut would leave it
    umount "$scratch/file"
    umount "$scratch/disk"
    wait
    mount -o loop "$scratch/image.copy" "$scratch/copy"
    python3 - "$scratch/copy/data" <<'PYTHON'
import sys
block = open(sys.argv[1], "rb").read()[4096:8192]
print(", disk: " + ("the bytes" if block.startswith(b"this block fails") else f"{block.count(0)} zeros at the failed block"))
PYTHON
    umount "$scratch/copy"
    rm "$scratch/image" "$scratch/image.copy"
}

said=$(try ext4; try xfs)
echo "$said"
[ "$said" = "ext4: first flush EIO, second flush ok, cache: the bytes, disk: 4096 zeros at the failed block
xfs: first flush EIO, second flush ok, cache: the bytes, disk: the bytes" ]
