"""The test that runs random histories, for a time or a number of steps."""

import asyncio
import time

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis.stateful import run_state_machine_as_test

from composerd.testing.kit.history_machine import History
from composerd.testing.kit.instance import Instance

EXAMPLES = 10
"""How many histories are tried between two looks at the clock."""

LENGTH = 40
"""How many steps a history has at most."""


class Histories:
    """Random histories against the model."""

    @pytest.mark.clause("G7")
    def test_random_histories(self, instance: Instance, request: pytest.FixtureRequest) -> None:
        """The same history gives the same answers, and the same storage, as on the model of the contract.

        `--history-seconds` and `--history-steps` say how many, `--history-seed` which. The same options are the same
        histories, as far as the time goes.
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
    """Try one history after the other, for so many seconds, or until so many steps were done."""
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
