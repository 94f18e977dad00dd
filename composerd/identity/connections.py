"""The base of sources of identities that look at the other end of a connection, once for each connection."""

import asyncio
import time
from abc import ABC, abstractmethod
from asyncio import BaseTransport
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from composerd.errors import NotAuthenticated
from composerd.identity.values import Identity
from composerd.watched_file import WatchedFile

T = TypeVar("T")


class ConnectionSource(ABC, Generic[T]):
    """A source of identities that may have a file of the operator's.

    Another version of that file holds for open connections too.
    """

    def __init__(self, file: WatchedFile[T] | None) -> None:
        self._file = file
        self._known: WeakKeyDictionary[BaseTransport, tuple[T | None, Identity]] = WeakKeyDictionary()
        """The identity at the other end of each connection, with the value of the file that it comes from."""

    @property
    def problem(self) -> str | None:
        """The reason why the file's present version is not used."""
        return None if self._file is None else self._file.problem

    async def run(self) -> None:
        """Read the file again when it changes, until canceled."""
        if self._file is None:
            await asyncio.get_running_loop().create_future()
        else:
            await self._file.run()

    def identify(self, transport: BaseTransport) -> Identity | None:
        """Return who is at the other end of a connection; None if it is of another kind than this source is for.

        Raises `NotAuthenticated` if it is nobody, or if the credentials have expired.
        """
        mapped = None if self._file is None else self._file.value
        known = self._known.get(transport)
        if known is None or known[0] is not mapped:
            if (identity := self._look_at(transport, mapped)) is None:
                return None
            known = self._known[transport] = (mapped, identity)
        identity = known[1]
        if identity.expires_at is not None and identity.expires_at <= time.time():
            raise NotAuthenticated(problem="the client's certificate has expired: connect again with a new one")
        return identity

    @abstractmethod
    def _look_at(self, transport: BaseTransport, mapped: T | None) -> Identity | None:
        """Find out who is at the other end. `mapped` is the value of the file. Raises `NotAuthenticated`."""
