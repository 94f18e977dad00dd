"""All keys that tokens may be signed with, from every place that the settings name."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

from composerd.errors import Unavailable
from composerd.identity.jwt.key_url import KeyUrl
from composerd.identity.jwt.keys import Key, KeySet, parse_key_set
from composerd.watched_file import WatchedFile

log = logging.getLogger(__name__)


class KeyRing:
    """The keys of all URLs and files."""

    def __init__(self, places: Sequence[str], on_loss: Callable[[], None]) -> None:
        """Read the files. Raises `UnusableFile`.

        `places` are URLs and paths. `on_loss` is called when a key is no longer there.
        """
        self._on_loss = on_loss
        self._urls = [KeyUrl(place, self._changed) for place in places if "://" in place]
        self._files = [WatchedFile(place, parse_key_set, "jwt_keys") for place in places if "://" not in place]
        for file in self._files:
            file.on_change = partial(self._file_changed, file)
            _log_problem(file)
        self._contents = self._present()

    @property
    def problem(self) -> str | None:
        """A sentence about the first place whose keys have a problem."""
        problems = [url.problem for url in self._urls] + [file.problem for file in self._files]
        problems += [
            f"jwt_keys: the file has a problem: {found}" for file in self._files if (found := file.value.problem)
        ]
        return next((problem for problem in problems if problem is not None), None)

    async def run(self) -> None:
        """Keep the keys up to date until canceled."""
        async with asyncio.TaskGroup() as group:
            for run in [url.run for url in self._urls] + [file.run for file in self._files]:
                group.create_task(run())

    def knows(self, key_id: str) -> bool:
        """Return True if a key has this id."""
        return any(key.id == key_id for keys in self._sets() for key in keys.keys)

    def fitting(self, key_id: str | None, algorithm: str) -> Sequence[Key]:
        """Return the keys that a token may be signed with. A token that names none fits if there is only one key."""
        fitting = [key for keys in self._sets() for key in keys.keys if algorithm in key.algorithms]
        if key_id is None:
            return fitting if len(fitting) == 1 else ()
        return [key for key in fitting if key.id == key_id]

    async def find(self, key_id: str | None, algorithm: str) -> Sequence[Key]:
        """Return the keys that a token may be signed with, after fetching the keys again if the one is unknown.

        Raises `Unavailable` if there is none, but it may be among keys that cannot be fetched.
        """
        found = self.fitting(key_id, algorithm)
        if found or (key_id is not None and self.knows(key_id)):
            return found
        await asyncio.gather(*(url.renew() for url in self._urls))
        found = self.fitting(key_id, algorithm)
        if not found and any(url.away for url in self._urls):
            error = Unavailable("the keys of JWTs cannot be fetched")
            error.logged = True
            raise error
        return found

    def _sets(self) -> list[KeySet]:
        fetched = [url.keys for url in self._urls if url.keys is not None]
        return fetched + [file.value for file in self._files]

    def _present(self) -> frozenset[object]:
        return frozenset[object]().union(*(keys.contents for keys in self._sets()))

    def _file_changed(self, file: WatchedFile[KeySet]) -> None:
        _log_problem(file)
        self._changed()

    def _changed(self) -> None:
        before, self._contents = self._contents, self._present()
        if before - self._contents:
            self._on_loss()


def _log_problem(file: WatchedFile[KeySet]) -> None:
    if file.value.problem is not None:
        log.warning("the set of keys at %s has a problem: %s", file.path, file.value.problem)
