"""The limits of tenants, as the quotas file has them: its format, and which limits a channel has. No I/O."""

import enum
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from composerd_protocol.units import format_size, parse_size
from composerd_protocol.words import TENANT_CHANNELS

UNLIMITED = "unlimited"
"""The value in the file that lifts a limit which `[default]` sets."""

MOST = 10**15
"""The largest limit: no count and no size comes near it."""


class Quota(enum.StrEnum):
    """A kind of quota; the value is its name in the file, in errors and in metrics."""

    __hash__ = str.__hash__  # the hash of an enum is a Python function, which makes dictionaries slow

    WAITING_JOBS = "waiting_jobs"
    """Jobs that are waiting or ready."""
    RUNNING_JOBS = "running_jobs"
    PAYLOAD_BYTES = "payload_bytes"
    """Bytes of args and results in the storage."""
    ARTIFACT_BYTES = "artifact_bytes"
    """Bytes of artifacts that are stored or arriving."""
    SUBMISSIONS_PER_MINUTE = "submissions_per_minute"
    """Submissions within any 60 seconds; a batch is one."""
    OPEN_WAITS = "open_waits"
    """Requests that wait, for a job or for a change of one."""

    def shown(self, amount: int) -> str:
        """Return an amount of it as people read it."""
        return format_size(amount) if self in SIZES else str(amount)


SIZES = frozenset({Quota.PAYLOAD_BYTES, Quota.ARTIFACT_BYTES})
"""Quotas that are counted in bytes."""

STORED = (Quota.WAITING_JOBS, Quota.RUNNING_JOBS, Quota.PAYLOAD_BYTES, Quota.ARTIFACT_BYTES)
"""Quotas of what is in the storage, which only the storage knows."""


class Limits(msgspec.Struct, frozen=True):
    """The limits of one tenant; None where it has none."""

    waiting_jobs: int | None = None
    running_jobs: int | None = None
    payload_bytes: int | None = None
    artifact_bytes: int | None = None
    submissions_per_minute: int | None = None
    open_waits: int | None = None

    def of(self, quota: Quota) -> int | None:
        """Return the limit of a quota, or None."""
        limit: int | None = getattr(self, quota.value)
        return limit


class QuotaTable(msgspec.Struct, frozen=True):
    """The limits of all tenants."""

    default: Limits
    by_channel: Mapping[str, Limits]
    """The limits of the channels that the file names."""

    def of(self, channel: str) -> Limits:
        """Return the limits of a channel."""
        return self.by_channel.get(channel, self.default)

    def limits(self, quotas: tuple[Quota, ...]) -> bool:
        """Return True if any channel has a limit of one of these quotas."""
        return any(one.of(quota) is not None for one in (self.default, *self.by_channel.values()) for quota in quotas)


def name_of(channel: str) -> str:
    """Return the name of the tenant that has a channel, for people."""
    if channel.startswith(TENANT_CHANNELS):
        return f"tenant {channel.removeprefix(TENANT_CHANNELS)}"
    return f"channel {channel}" if channel else "identities without a tenant"


def parse(content: bytes) -> QuotaTable:
    """Return the limits that the content of a quotas file sets.

    `[default]` is for every tenant, and what `[tenants.NAME]` and `[no-tenant]` leave out is as there. Raises
    `ValueError` with a sentence that says what is wrong.
    """
    try:
        found = tomllib.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise ValueError(f"it is not valid TOML: {exc}") from None
    if unknown := sorted(found.keys() - {"default", "tenants", "no-tenant"}):
        raise ValueError(f"{unknown[0]!r} is not known there: write [default], [tenants.NAME] or [no-tenant]")
    default = _limits(found.get("default", {}), "default", Limits())
    tenants = found.get("tenants", {})
    if not isinstance(tenants, dict):
        raise ValueError("tenants is not a table: write [tenants.NAME]")  # noqa: TRY004  # it is about the file
    by_channel = {
        f"{TENANT_CHANNELS}{name}": _limits(table, f"tenants.{name}", default) for name, table in tenants.items()
    }
    if "no-tenant" in found:
        by_channel[""] = _limits(found["no-tenant"], "no-tenant", default)
    return QuotaTable(default, by_channel)


def _limits(table: Any, where: str, default: Limits) -> Limits:
    if not isinstance(table, dict):
        raise ValueError(f"{where} is not a table: write [{where}]")  # noqa: TRY004  # it is about the file
    limits: dict[str, int | None] = {}
    for name, value in table.items():
        if name not in Limits.__struct_fields__:
            raise ValueError(f"[{where}] has {name!r}, but the quotas are {', '.join(Quota)}")
        try:
            limits[name] = None if value == UNLIMITED else _PARSERS[Quota(name) in SIZES](value)
        except ValueError as exc:
            raise ValueError(f"{name} in [{where}]: {exc}") from None
    return msgspec.structs.replace(default, **limits)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MOST:
        raise ValueError(f"{str(value)[:40]!r} is not a whole number of at least 0, nor {UNLIMITED!r}")
    return value


def _size(value: Any) -> int:
    if isinstance(value, str):
        return min(parse_size(value), MOST)
    return _count(value)


_PARSERS: Mapping[bool, Callable[[Any], int]] = {False: _count, True: _size}
