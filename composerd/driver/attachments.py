"""Decides whether a file may be attached to an attempt. No I/O."""

from collections.abc import Mapping

from composerd.models import Artifact, Attachment, Exceeded


def exceeded(attached: Mapping[str, Artifact], new: Attachment) -> Exceeded | None:
    """Return the limit that a running attempt would exceed with another file, or None if the file is to be attached.

    `attached` has the files of the attempt by name. A file of the same name is replaced, so it does not count. A file
    that is attached already is a repetition, which exceeds nothing.
    """
    artifact = new.artifact
    before = attached.get(artifact.name)
    if before == artifact:
        return None
    if new.max_files is not None and before is None and len(attached) >= new.max_files:
        return Exceeded.FILES
    if new.max_bytes is not None:
        total = sum(one.size for one in attached.values()) - (0 if before is None else before.size)
        if total + artifact.size > new.max_bytes:
            return Exceeded.BYTES
    return None
