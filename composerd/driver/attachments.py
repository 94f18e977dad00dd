"""Decides whether a file may be attached to an attempt, and whether its files are those of a list. No I/O."""

from collections.abc import Mapping, Sequence

from composerd.artifact_values import Difference, DifferenceKind, Exceeded, ListedArtifact
from composerd.models import Artifact, Attachment


def exceeded(attached: Mapping[str, Artifact], new: Attachment) -> Exceeded | None:
    """Return the reason for which a running attempt may not have another file, or None if it is to be attached.

    `attached` has the files of the attempt by name. A file of the same name is replaced, so it does not count. A file
    that is attached already is a repetition, which exceeds nothing.
    """
    artifact = new.artifact
    before = attached.get(artifact.name)
    if before == artifact:
        return None
    if before is not None and not new.known_whole and artifact.size < before.size:
        return Exceeded.SHORTER
    if new.max_files is not None and before is None and len(attached) >= new.max_files:
        return Exceeded.FILES
    if new.max_bytes is not None:
        total = sum(one.size for one in attached.values()) - (0 if before is None else before.size)
        if total + artifact.size > new.max_bytes:
            return Exceeded.BYTES
    return None


def difference(attached: Mapping[str, Artifact], listed: Sequence[ListedArtifact]) -> Difference | None:
    """Return the first difference between the files of an attempt, by name, and a list of them; None if there is none.

    The listed files are compared in the order of the list. Then come files that are not listed, by name.
    """
    for one in listed:
        found = attached.get(one.name)
        if found is None:
            return Difference(DifferenceKind.MISSING, one.name)
        if one.size is not None and one.size != found.size:
            return Difference(DifferenceKind.SIZE, one.name, found.size)
        if one.sha256 is not None and one.sha256.lower() != found.sha256:
            return Difference(DifferenceKind.SHA256, one.name, found.sha256)
    unexpected = attached.keys() - {one.name for one in listed}
    return Difference(DifferenceKind.UNEXPECTED, min(unexpected)) if unexpected else None
