"""Interning: keys and policies that are equal in many jobs are one object in memory, as long as a job has them."""

from typing import Generic, TypeVar

import msgspec

from composerd.driver.records import Policy
from composerd.models import Key
from composerd_fs.journal.entries import JobFields, ShapeFields

T = TypeVar("T")


class _Interned(msgspec.Struct, Generic[T], eq=False):
    """An object, and the number of jobs that have it."""

    one: T
    jobs: int = 0


class Interning:
    """The keys and policies of all jobs, each as one object."""

    def __init__(self) -> None:
        self._policies: dict[tuple[object, ...], _Interned[Policy]] = {}
        self._keys: dict[tuple[object, ...], _Interned[Key]] = {}

    def key(self, fields: JobFields | ShapeFields, jobs: int = 1) -> Key:
        """Return the key of a job, for so many further jobs. `count` with a negative number ends that."""
        named = (fields.channel, fields.type, fields.arch)
        found = self._keys.get(named)  # a plain tuple finds the equal key, so that none has to be created
        if found is None:
            key = Key(*named)
            found = self._keys[key] = _Interned(key)
        found.jobs += jobs
        return found.one

    def policy(self, fields: JobFields | ShapeFields, jobs: int = 1) -> Policy:
        """Return the policy of a job, for so many further jobs. `count` with a negative number ends that."""
        named = (
            fields.timeout,
            fields.max_retries,
            fields.retry_on_failure,
            fields.retry_backoff,
            fields.fail_with_dependency,
            fields.retention,
        )
        found = self._policies.get(named)
        if found is None:
            policy = Policy(*named)
            found = self._policies[policy] = _Interned(policy)
        found.jobs += jobs
        return found.one

    def count(self, key: Key, policy: Policy, jobs: int) -> None:
        """Add to the number of jobs that have a key and a policy, or subtract, and forget what no job has."""
        _count(self._keys, key, jobs)
        _count(self._policies, policy, jobs)


def _count(interned: dict[tuple[object, ...], _Interned[T]], one: T, jobs: int) -> None:
    assert isinstance(one, tuple)
    found = interned.get(one)
    if found is None:
        found = interned[one] = _Interned(one)
    found.jobs += jobs
    if not found.jobs:
        del interned[one]
        if not interned:
            interned.clear()  # gives back the memory of the dictionary too
