"""The list of artifacts in the body that finishes a job: reading it, and checking what no schema says."""

import msgspec

from composerd.artifact_values import ListedArtifact
from composerd.errors import InvalidContent
from composerd.http.bodies import decoded
from composerd.slices import Slices
from composerd_protocol.file_names import problem_with

_LARGEST_ENTRY = 2048
"""The most bytes of an entry, about: a name of 255 bytes may be written with 1530."""


class _Listed(msgspec.Struct):
    artifacts: list[ListedArtifact] | None


_LISTED = msgspec.json.Decoder(_Listed)


async def listed_artifacts(sent: msgspec.Raw, most: int) -> tuple[ListedArtifact, ...] | None:
    """Return the artifacts of a list of at most `most` entries, or None for null.

    Raises `InvalidContent` for a list that is longer, has the wrong shape, a name twice, or one that no artifact has.
    """
    if len(sent) > most * _LARGEST_ENTRY:
        raise _too_many(most)
    found = (await decoded(b'{"artifacts":' + bytes(sent) + b"}", _LISTED)).artifacts
    if found is None:
        return None
    if len(found) > most:
        raise _too_many(most)
    slices = Slices()
    names = set()
    for index, one in enumerate(found):
        problem = problem_with(one.name)
        if problem is None and one.name in names:
            problem = "must not be listed twice"
        if problem is not None:
            raise InvalidContent(field=f"artifacts[{index}].name", problem=problem)
        names.add(one.name)
        await slices.pause()
    return tuple(found)


def _too_many(most: int) -> InvalidContent:
    return InvalidContent(field="artifacts", problem=f"must have at most {most} entries", limit=most)
