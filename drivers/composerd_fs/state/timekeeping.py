"""The time of one table: the clock, what its jumps change, and which ended jobs may be purged."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from composerd.driver.clock import Clock
from composerd.driver.timekeeper import ClockState, Timekeeper, dispute
from composerd.models import AttemptState
from composerd_fs.state.job import AttemptRecord
from composerd_fs.state.table import Table


class Timekeeping:
    """The clock of one driver. When it has jumped, every running attempt gets a full lease."""

    def __init__(self, table: Table, clock: Clock) -> None:
        self.keeper = Timekeeper()
        self._table = table
        self._clock = clock
        self._jump = 0
        """The jump after which the running attempts have not got a full lease, because the flush was refused."""

        self._shifted: set[UUID] = set()
        """Attempts during which the clock has jumped, if their jobs have a timeout; some may have ended."""

    def open(self, stored: ClockState, timeouts: Mapping[UUID, int], confirmed: Sequence[UUID] = ()) -> None:
        """Begin to keep the time, and finish the replay, with what `timeouts` and `confirmed` returned before."""
        moment = self._clock.read()
        jump = self.keeper.open(stored, *moment)
        for token, timeout_at in timeouts.items():
            attempt = self._table.jobs.attempts.get(token.int)
            if attempt is not None and attempt.timeout_at is not None:
                attempt.timeout_at = timeout_at
                self._shifted.add(token)
        for token in confirmed:
            attempt = self._table.jobs.attempts.get(token.int)
            if attempt is not None:
                attempt.confirmed = True
        self._table.restart(moment.now, jump)
        if jump:
            self._note_shifted()
        self._keep_ended_jobs(moment.now)

    def show(self, stored: ClockState) -> None:
        """Finish the replay of a storage that is only read, and have `dispute` say what a server would find now."""
        self.keeper.show(stored, self._clock.now())
        self._table.replayed()

    def now(self) -> int:
        """Return the time."""
        return self._clock.now()

    def observe(self) -> int:
        """Return the time. If the clock has jumped, first give every running attempt a full lease, in this flush."""
        moment = self._clock.read()
        self._jump += self.keeper.observe(*moment)
        if self._jump:
            table, leases = self._table, self._table.leases
            before = [(attempt, attempt.deadline, attempt.timeout_at) for attempt in leases]
            table.undo.add((self._take_back, self._jump, before))
            table.grant_grace(moment.now, self._jump)
            self._jump = 0
            self._note_shifted()
            self._keep_ended_jobs(moment.now)
        return moment.now

    def _note_shifted(self) -> None:
        self._shifted.update(one.token for one in self._table.leases if one.timeout_at is not None)

    def timeouts(self) -> dict[UUID, int]:
        """Return when a timeout ends the running attempts during which the clock has jumped: no entry says that."""
        attempts = self._table.jobs.attempts
        running = [attempts[one.int] for one in self._shifted if one.int in attempts]
        found = {
            one.token: one.timeout_at
            for one in running
            if one.state is AttemptState.RUNNING and one.timeout_at is not None
        }
        self._shifted = set(found)
        return found

    def confirmed(self) -> tuple[UUID, ...]:
        """Return the running attempts whose workers have called: no entry says that of a heartbeat."""
        return tuple({one.token for one in self._table.leases if one.confirmed})

    def _keep_ended_jobs(self, now: int) -> None:
        self._table.jobs.expiries.keep_before(self.keeper.kept_before(now))

    def _take_back(self, jump: int, before: list[tuple[AttemptRecord, int, int | None]]) -> None:
        self._jump += jump
        for attempt, deadline, timeout_at in before:
            attempt.deadline, attempt.timeout_at = deadline, timeout_at
        self._table.leases.rebuild()

    def dispute(self) -> dict[str, str]:
        """Return what `StorageInfo.details` says about the clock."""
        return dispute(self.keeper.state.disputed_since)

    def grace(self) -> None:
        """Give every running attempt a full lease; call it between two flushes."""
        self._table.grant_grace(self._clock.now())

    def keep_seen(self) -> None:
        """Note the time, because the storage is closed. A jump of the clock concerns no attempt any more."""
        self.keeper.observe(*self._clock.read())
