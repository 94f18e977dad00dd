"""The errors that a worker gets when its attempt cannot do what was requested, by the state of the attempt."""

from typing import Any

from composerd.artifact_values import Difference, DifferenceKind
from composerd.errors import (
    ArtifactsDiffer,
    AttemptCanceled,
    AttemptFinished,
    AttemptSuperseded,
    ComposerdError,
    ResultConflict,
    TokenNotFound,
)
from composerd.models import Attempt, AttemptState, Finished, Verdict

_NOT_ACCEPTED: dict[Verdict, type[ComposerdError]] = {
    Verdict.CONFLICT: ResultConflict,
    Verdict.CANCELED: AttemptCanceled,
    Verdict.SUPERSEDED: AttemptSuperseded,
    Verdict.UNKNOWN: TokenNotFound,
}

_NOT_RUNNING: dict[AttemptState, type[ComposerdError]] = {
    AttemptState.FINISHED: AttemptFinished,
    AttemptState.CANCELED: AttemptCanceled,
    AttemptState.SUPERSEDED: AttemptSuperseded,
    AttemptState.UNKNOWN: TokenNotFound,
}


def check_running(attempt: Attempt) -> None:
    """Return if an attempt is running, and raise the error for its state if it is not.

    The errors are `AttemptFinished`, `AttemptCanceled`, `AttemptSuperseded` and `TokenNotFound`.
    """
    if attempt.state is not AttemptState.RUNNING:
        raise _error(_NOT_RUNNING[attempt.state], attempt.state)


def check_accepted(finished: Finished) -> None:
    """Return if an outcome was accepted, and raise the error for the verdict if it was not.

    The errors are `ArtifactsDiffer`, `ResultConflict`, `AttemptCanceled`, `AttemptSuperseded` and `TokenNotFound`.
    """
    verdict = finished.verdict
    if finished.difference is not None:
        raise _differ(finished.difference)
    if verdict is not Verdict.ACCEPTED:
        raise _error(_NOT_ACCEPTED[verdict], verdict)


_PROBLEMS = {
    DifferenceKind.MISSING: "the result lists this artifact, and it was not uploaded",
    DifferenceKind.UNEXPECTED: "this artifact was uploaded, and the result does not list it",
    DifferenceKind.SIZE: "the uploaded artifact has another size than the result lists",
    DifferenceKind.SHA256: "the uploaded artifact has another sha256 than the result lists",
}


def _differ(difference: Difference) -> ArtifactsDiffer:
    kind = difference.kind
    details: dict[str, Any] = {"difference": kind.value, "name": difference.name, "problem": _PROBLEMS[kind]}
    if difference.attached is not None:
        details["uploaded"] = difference.attached
    return ArtifactsDiffer(**details)


def _error(error: type[ComposerdError], state: AttemptState | Verdict) -> ComposerdError:
    return error(state=state.value) if state.value in ("canceled", "finished", "superseded") else error()
