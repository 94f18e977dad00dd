"""Tests that the bytes which the simple driver stores keep their meaning, so that existing storages stay readable.

The samples were encoded by the version that first had this format. They are never regenerated: a change that these
tests notice needs a way to read the older bytes.
"""

from uuid import UUID

import msgspec

from composerd.driver.simple import JobRecord
from composerd.driver.simple.changes import Memo
from composerd.driver.simple.records import AttemptRecord
from composerd.models import Artifact, AttemptState, JobState, NewJob, OnDependencyFailure

RECORD = bytes.fromhex(
    "de0011a36e6577de0010a26964d92430303030303030302d303030302d303030302d303030302d303030303030303030"
    "303031a474797065a56275696c64a461726368a67838365f3634a76368616e6e656ca36f7267a461726773c0ac646570"
    "656e64656e6369657393d92430303030303030302d303030302d303030302d303030302d303030303030303030303032"
    "d92430303030303030302d303030302d303030302d303030302d303030303030303030303033d9243030303030303030"
    "2d303030302d303030302d303030302d303030303030303030303032a87072696f72697479f9aa6e6f745f6265666f72"
    "65c0a774696d656f7574cb403e000000000000ab6d61785f7265747269657305b072657472795f6f6e5f6661696c7572"
    "6502ad72657472795f6261636b6f6666cb402e000000000000b56f6e5f646570656e64656e63795f6661696c757265a4"
    "6661696caf6964656d706f74656e63795f6b6579a36b6579ab66696e6765727072696e74c402ff00a9726574656e7469"
    "6f6ecb4058c00000000000a66e756d6265720ba5706c6163650ca97175657565645f6174cf00060a24181e4003a57374"
    "617465a66661696c6564a770656e64696e6701aa6e6f745f6265666f7265cf00060a24181e4004aa737461727465645f"
    "6174cf00060a24181e4005ab66696e69736865645f6174cf00060a24181e4006a77265747269657304a86661696c7572"
    "657302a772657475726e7301a7617474656d707403a9776f726b65725f6964d92430303030303030302d303030302d30"
    "3030302d303030302d303030303030303030303038a77061727469616cc40a7b22646f6e65223a317da8617474656d70"
    "7473918ca5746f6b656ed92430303030303030302d303030302d303030302d303030302d303030303030303030303037"
    "a66e756d62657203a56c65617365cb4082c00000000000a868616e646f766572cb4049000000000000a9776f726b6572"
    "5f6964d92430303030303030302d303030302d303030302d303030302d303030303030303030303038a8646561646c69"
    "6e65cf00060a24181e4001aa74696d656f75745f6174cf00060a24181e4002a9636f6e6669726d6564c3a7636f6e6669"
    "726dc3a57374617465a866696e6973686564a6646967657374c410dddddddddddddddddddddddddddddddda961727469"
    "666163747381a36c6f6784a46e616d65a36c6f67a473697a6503a6736861323536d94061626162616261626162616261"
    "626162616261626162616261626162616261626162616261626162616261626162616261626162616261626162616261"
    "626162a5706c616365a36f6e65a961727469666163747381a5696d61676584a46e616d65a5696d616765a473697a6505"
    "a6736861323536d940636463646364636463646364636463646364636463646364636463646364636463646364636463"
    "64636463646364636463646364636463646364636463646364a5706c616365a374776f"
)
"""A job with a value in each of its fields, and with one attempt."""

MEMO = bytes.fromhex("82a66e756d62657209a474696d6508")
"""The values that a shelf keeps beside the records."""

MOMENT = 1_700_000_000_000_000


def test_every_field_of_a_job_is_read() -> None:
    """A stored job is read with the value of each of its fields."""
    record = JobRecord.decoded(RECORD)
    assert msgspec.structs.asdict(record) == {
        "new": NewJob(
            id=UUID(int=1),
            type="build",
            arch="x86_64",
            channel="org",
            args=None,
            dependencies=(UUID(int=2), UUID(int=3), UUID(int=2)),
            priority=-7,
            not_before=None,
            timeout=30.0,
            max_retries=5,
            retry_on_failure=2,
            retry_backoff=15.0,
            on_dependency_failure=OnDependencyFailure.FAIL,
            idempotency_key="key",
            fingerprint=b"\xff\x00",
            retention=99.0,
        ),
        "sequence": 11,
        "position": 12,
        "queued_at": MOMENT + 3,
        "state": JobState.FAILED,
        "pending": 1,
        "not_before": MOMENT + 4,
        "started_at": MOMENT + 5,
        "finished_at": MOMENT + 6,
        "retries": 4,
        "failures": 2,
        "uncounted_requeues": 1,
        "attempt_number": 3,
        "worker_id": UUID(int=8),
        "partial": b'{"done":1}',
        "attempts": record.attempts,
        "artifacts": {"image": Artifact("image", 5, "cd" * 32, "two")},
        "has_args": False,
        "unpropagated": None,
        "args_size": 0,
        "result_size": 0,
    }


def test_every_field_of_an_attempt_is_read() -> None:
    """A stored attempt is read with the value of each of its fields."""
    assert JobRecord.decoded(RECORD).attempts == [
        AttemptRecord(
            token=UUID(int=7),
            number=3,
            lease_seconds=600.0,
            handover_seconds=50.0,
            worker_id=UUID(int=8),
            deadline=MOMENT + 1,
            timeout_at=MOMENT + 2,
            confirmed=True,
            confirm=True,
            state=AttemptState.FINISHED,
            digest=b"\xdd" * 16,
            artifacts={"log": Artifact("log", 3, "ab" * 32, "one")},
        )
    ]


def test_a_job_is_stored_as_before() -> None:
    """A job that was read is encoded as it was, with the fields that were added later behind the others."""
    added = ("has_args", False, "unpropagated", None, "args_size", 0, "result_size", 0)
    assert JobRecord.decoded(RECORD).encoded == b"\xde\x00\x15" + RECORD[3:] + b"".join(
        map(msgspec.msgpack.encode, added)
    )


def test_the_memo_is_stored_as_before() -> None:
    """A memo is read with the value of each of its fields and encoded to the same bytes."""
    memo = msgspec.msgpack.decode(MEMO, type=Memo)
    assert memo == Memo(sequence=9, seen=8)
    assert msgspec.msgpack.encode(memo) == MEMO
