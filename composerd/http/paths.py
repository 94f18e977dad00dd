"""The paths at which everything is served, and those that the client of the request in progress knows them by."""

import re
from contextvars import ContextVar
from typing import Self

import msgspec
from aiohttp import web

from composerd.errors import InvalidContent
from composerd.settings import COMPOSER_BASE, WORKER_BASE, Settings

PREFIX_HEADER = "X-Forwarded-Prefix"
"""The header in which a proxy says what it has removed from the beginning of the path."""

_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)*/?")

_LONGEST_PREFIX = 256


class Bases(msgspec.Struct, frozen=True):
    """The base paths of the two APIs and of what belongs to neither, such as `/healthz`."""

    worker: str = WORKER_BASE
    composer: str = COMPOSER_BASE
    site: str = ""
    prefix: str = ""
    """Prefix that a proxy has removed from the path; the others begin with it."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the base paths of a server."""
        site = settings.base_path or ""
        return cls(site + settings.worker_base_path, site + COMPOSER_BASE, site)

    def behind(self, prefix: str) -> "Bases":
        """Return the base paths as a client knows them whose proxy removes a prefix."""
        return Bases(prefix + self.worker, prefix + self.composer, prefix + self.site, prefix)


BASES: web.AppKey[Bases] = web.AppKey("BASES", Bases)
"""The base paths at which the server itself serves."""

_AT_THE_ROOT = Bases()

bases: ContextVar[Bases] = ContextVar("bases", default=_AT_THE_ROOT)
"""The base paths as the client of the request knows them: every href in an answer begins with one of them."""


def forwarded_prefix(request: web.BaseRequest) -> str:
    """Return the prefix that proxies have removed from the path, from the outermost on; empty if there is none.

    Raises `InvalidContent` if it is not a path.
    """
    prefix = ""
    for text in ",".join(request.headers.getall(PREFIX_HEADER, ())).split(","):
        one = text.strip()
        if not _PREFIX.fullmatch(one) or {".", ".."} & set(one.split("/")) or len(prefix) + len(one) > _LONGEST_PREFIX:
            raise InvalidContent(field=PREFIX_HEADER, problem="must be a path such as /ci")
        prefix += one.rstrip("/")
    return prefix
