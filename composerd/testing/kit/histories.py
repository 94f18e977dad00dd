"""The test that runs random histories, for a time or for a number of steps."""

import asyncio
import time

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis.stateful import run_state_machine_as_test

from composerd.testing.kit.history_machine import History
from composerd.testing.kit.instance import Instance

EXAMPLES = 10
"""The number of histories between two checks of the time."""

LENGTH = 40
"""The largest number of steps of a history."""


class Histories:
    """Random histories, compared with the model of the contract."""

    @pytest.mark.clause("G7")
    def test_random_histories(self, instance: Instance, request: pytest.FixtureRequest) -> None:
        """After the same calls, the driver has given the same answers and stored the same as the model of the contract.

        `--history-seconds` or `--history-steps` say how many histories are tried, `--history-seed` which. The same
        options try the same histories, as far as the time allows.
        """
        option = request.config.getoption
        with asyncio.Runner() as runner:
            machine = type("Histories", (History,), {"instance": instance, "runner": runner, "steps": 0})
            try:
                runner.run(instance.driver.start())
                seconds, steps, seed = map(option, ("--history-seconds", "--history-steps", "--history-seed"))
                try_histories(machine, seconds, steps, seed, shrink=not option("--history-as-found"))
            finally:
                runner.run(instance.close())


def try_histories(machine: type[History], seconds: float, steps: int | None, seed: int, *, shrink: bool = True) -> None:
    """Try one history after the other for `seconds`, or until `steps` steps were done."""
    began = time.monotonic()
    chosen = settings(
        max_examples=EXAMPLES,
        stateful_step_count=LENGTH,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    while machine.steps < steps if steps is not None else time.monotonic() - began < seconds:
        run_state_machine_as_test(seeded(seed)(machine), settings=chosen)
        seed += 1
