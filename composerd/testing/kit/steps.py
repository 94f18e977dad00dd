"""The steps of a random history, as Hypothesis strategies. Their arguments are small numbers."""

from hypothesis import strategies as st

from composerd.artifact_values import ListedArtifact
from composerd.models import JobState, Key

UNIT = 1000.0
"""The number of seconds of which all durations in a history are multiples."""

KEYS = [Key("", "t", None), Key("", "t", "x"), Key("c", "t", None)]

LAST = 9
"""The largest number that picks a job or a token."""

index = st.integers(0, LAST)
units = st.integers(1, 4)
traits = st.fixed_dictionaries(
    {},
    optional={
        "later": units,
        "timeout": units,
        "max_retries": st.integers(0, 1),
        "retry_on_failure": st.integers(0, 2),
        "idempotency_key": st.integers(0, 1),
        "retention": units,
    },
)
submission = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "key": st.integers(0, 2),
            "dependencies": st.lists(index, min_size=1, max_size=3),
            "priority": st.integers(-1, 1),
            "strict": st.just(True),
            "traits": traits,
        },
    ),
    min_size=1,
    max_size=4,
)
state = st.sampled_from([None, *JobState])
queries = st.one_of(
    st.tuples(st.just("list_jobs"), state, st.sampled_from([None, 0, 1, 2]), st.integers(1, 5)),
    st.tuples(st.just("ahead"), index, st.integers(1, 3)),
    st.tuples(st.just("list_workers"), units),
)
heartbeats = st.one_of(
    st.tuples(st.just("seen"), st.integers(0, 2), st.sampled_from(["alive", "described", "paused", "signed off"])),
    st.tuples(st.just("touch"), index, st.sampled_from([None, b"1", b"2"]), st.booleans()),
    st.tuples(st.just("attach"), index, st.sampled_from("ab"), st.sampled_from(["x", "yyy"])),
)
lists = st.sampled_from([None, None, *[tuple(map(ListedArtifact, names)) for names in ("", "a", "b", "ab")]])
"""The artifacts that an outcome lists, or None."""

repetitions = st.one_of(
    st.tuples(st.just("submit_again"), index),
    st.tuples(st.just("claim_again"), index, st.integers(0, 2)),
)
storage_steps = st.one_of(
    st.tuples(st.sampled_from(["restart", "reload", "purge"])),
    st.tuples(st.just("freeze"), st.integers(2, 4)),
    st.tuples(st.just("jump"), st.sampled_from([-4, -1, 1, 4])),
)
