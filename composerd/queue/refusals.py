"""The errors that a worker gets when its attempt cannot do what was requested, by the state of the attempt."""

from composerd.errors import (
    AttemptCanceled,
    AttemptFinished,
    AttemptSuperseded,
    ComposerdError,
    ResultConflict,
    TokenNotFound,
)
from composerd.models import Attempt, AttemptState, Verdict

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


def check_accepted(verdict: Verdict) -> None:
    """Return if an outcome was accepted, and raise the error for the verdict if it was not.

    The errors are `ResultConflict`, `AttemptCanceled`, `AttemptSuperseded` and `TokenNotFound`.
    """
    if verdict is not Verdict.ACCEPTED:
        raise _error(_NOT_ACCEPTED[verdict], verdict)


def _error(error: type[ComposerdError], state: AttemptState | Verdict) -> ComposerdError:
    return error(state=state.value) if state.value in ("canceled", "finished", "superseded") else error()
