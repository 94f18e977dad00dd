"""Leaving payloads out of an answer that would become too large."""

from collections.abc import Iterable


def up_to(payloads: Iterable[bytes | None], limit: int) -> list[bytes | int | None]:
    """Return payloads, but of those that are too large their sizes, as `Driver.payloads_up_to` says.

    `payloads` is read one by one, so that an iterator never has two large ones in memory.
    """
    answers: list[bytes | int | None] = []
    total = 0
    for payload in payloads:
        if payload is None:
            answers.append(None)
            continue
        total += len(payload)
        answers.append(payload if total <= limit else len(payload))
    return answers
