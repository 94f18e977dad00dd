"""Identities, without behaviour that needs I/O."""

import msgspec
from msgspec.structs import force_setattr

from composerd.identity.roles import Role
from composerd_protocol.words import TENANT_CHANNELS

LONGEST_NAME = 255
"""The most characters of a name, which is what OpenID Connect allows for a subject."""

LONGEST_TENANT = 124
"""The most characters of a tenant: with `org-` before it, it names a channel."""


class Identity(msgspec.Struct, frozen=True):
    """A person or a program, as the server knows it from its credentials."""

    name: str
    """Its name among the identities of its source and its tenant."""
    role: Role
    tenant: str | None = None
    """The tenant that it belongs to, if it belongs to one."""
    source: str = ""
    """Kind of its credentials: `token`, `jwt`, `certificate` or `socket`; empty for `ANYBODY`."""
    expires_at: float | None = None
    """The end of its credentials, in seconds since 1970."""

    key: str = ""
    """A text that no other identity has: shares, workers and attempts belong to it. Empty for `ANYBODY`. Made here."""
    channel: str = ""
    """The channel of its jobs. Made here."""

    def __post_init__(self) -> None:  # once, because each request asks for them several times
        force_setattr(self, "key", self.source and f"{self.source} {self.tenant or ''} {self.name}")
        force_setattr(self, "channel", "" if self.tenant is None else channel_of(self.tenant))

    @property
    def scope(self) -> str | None:
        """The only channel whose jobs and workers exist for it; None if all do."""
        return None if self.role is Role.ADMIN else self.channel

    def sees(self, channel: str) -> bool:
        """Return True if the jobs of a channel exist for it."""
        return self.role is Role.ADMIN or channel == self.channel


ANYBODY = Identity("anybody", Role.ADMIN)
"""Identity of everybody while a server has no source of identities."""


def channel_of(tenant: str) -> str:
    """Return the channel of a tenant."""
    return f"{TENANT_CHANNELS}{tenant}"
