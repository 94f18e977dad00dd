"""Interning: keys and policies that are equal in many jobs are one object in memory."""

from composerd.driver.records import Policy
from composerd.models import Key
from composerd_fs.journal.entries import JobFields, ShapeFields


class Interning:
    """The keys and policies of all jobs, each as one object."""

    def __init__(self) -> None:
        self._policies: dict[tuple[object, ...], Policy] = {}
        self._keys: dict[tuple[str, str, str | None], Key] = {}

    def key(self, fields: JobFields | ShapeFields) -> Key:
        """Return the key of a job."""
        named = (fields.channel, fields.type, fields.arch)
        key = self._keys.get(named)  # a plain tuple finds the equal key, so that none has to be created
        if key is None:
            key = self._keys[named] = Key(*named)
        return key

    def policy(self, fields: JobFields | ShapeFields) -> Policy:
        """Return the policy of a job."""
        named = (
            fields.timeout,
            fields.max_retries,
            fields.retry_on_failure,
            fields.retry_backoff,
            fields.fail_with_dependency,
            fields.retention,
        )
        policy = self._policies.get(named)
        if policy is None:
            policy = self._policies[named] = Policy(*named)
        return policy
