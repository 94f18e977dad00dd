"""A set of keys that a server publishes at a URL."""

import asyncio
import logging
import random
import re
import ssl
from collections.abc import Callable

import aiohttp
from yarl import URL

from composerd.identity.jwt.keys import KeySet, parse_key_set
from composerd.identity.jwt.urls import check_url

log = logging.getLogger(__name__)

FETCH_EVERY = 10.0
"""The least time in seconds between the beginnings of two fetches, however many tokens name unknown keys."""

FETCH_WITHIN = 5.0
"""Time in seconds that a fetch may take."""

LARGEST_SET = 512 * 1024
"""The most bytes of a set of keys."""

MOST_REDIRECTS = 3
"""The most redirections of a fetch."""

SOONEST, USUAL, LATEST = 60.0, 300.0, 900.0
"""Seconds until the keys are fetched again: at least, if the answer says nothing about it, and at most."""

JITTER = 0.2
"""The part of that time by which it is shortened at random, so that servers do not fetch together."""

_MAX_AGE = re.compile(r"(?:^|[,\s])max-age\s*=\s*\"?([0-9]{1,9})", re.IGNORECASE)

_AT_ONCE = re.compile(r"(?:^|[,\s])no-(?:store|cache)(?:[,\s]|$)", re.IGNORECASE)

_HEADERS = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
"""An answer that is compressed nevertheless is not decompressed, so a small one cannot become large here."""


class UnusableAnswer(Exception):
    """The answer to a fetch has no keys; the message says why."""


class KeyUrl:
    """The keys at a URL. They stay in force while they cannot be fetched again."""

    def __init__(self, url: str, on_change: Callable[[], None]) -> None:
        self.keys: KeySet | None = None
        """The keys that were fetched last; None until a fetch has succeeded."""
        self.problem: str | None = None
        self.away = False
        """True if the latest fetch has failed."""
        self._url = URL(url)
        self._on_change = on_change
        self._began = -FETCH_EVERY
        """The beginning of the latest fetch, by the loop's clock."""
        self._fetching = False
        self._wanted = asyncio.Event()
        """Set when a token names a key that is unknown."""
        self._ended = asyncio.Event()
        """Set, and replaced, at the end of each fetch."""

    async def run(self) -> None:
        """Fetch the keys again and again, until canceled."""
        connector = aiohttp.TCPConnector(limit=1, ssl=ssl.create_default_context(), force_close=True)
        timeout = aiohttp.ClientTimeout(total=FETCH_WITHIN)
        jar = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, cookie_jar=jar, headers=_HEADERS, auto_decompress=False
        ) as session:
            while True:
                again_in = await self._fetch(session)
                try:
                    async with asyncio.timeout(again_in * random.uniform(1 - JITTER, 1)):
                        await self._wanted.wait()
                except TimeoutError:
                    continue
                await asyncio.sleep(self._began + FETCH_EVERY - asyncio.get_running_loop().time())

    async def renew(self) -> None:
        """Return after the end of a fetch, which all who ask meanwhile share.

        Return at once if the latest fetch began a short time ago. The next one then begins as soon as it may.
        """
        if not self._fetching:
            self._wanted.set()
            if asyncio.get_running_loop().time() < self._began + FETCH_EVERY:
                return
        await self._ended.wait()

    async def _fetch(self, session: aiohttp.ClientSession) -> float:
        """Fetch the keys, and return the time in seconds until they are to be fetched again."""
        self._wanted.clear()
        self._fetching = True
        self._began = asyncio.get_running_loop().time()
        try:
            content, again_in = await self._get(session)
            self._take(parse_key_set(content))
        except TimeoutError:
            self._fail(f"there was no answer within {FETCH_WITHIN:g} s")
        except (UnusableAnswer, aiohttp.ClientError, OSError, ValueError) as exc:
            self._fail(str(exc) or type(exc).__name__)
        else:
            return again_in
        finally:
            self._fetching = False
            self._ended.set()
            self._ended = asyncio.Event()
        return FETCH_EVERY / (1 - JITTER)

    async def _get(self, session: aiohttp.ClientSession) -> tuple[bytes, float]:
        """Return the body of the answer, and the time in seconds for which it may be used."""
        url = self._url
        for _ in range(MOST_REDIRECTS + 1):
            async with session.get(url, allow_redirects=False) as response:
                if response.status in (301, 302, 303, 307, 308):
                    url = _redirected(url, response)
                    continue
                if response.status != 200:
                    raise UnusableAnswer(f"the answer has the status {response.status}")
                content = b""
                async for part in response.content.iter_any():
                    content += part
                    if len(content) > LARGEST_SET:
                        raise UnusableAnswer(f"the answer is larger than {LARGEST_SET} bytes")
                return content, _time_of_use(response.headers.get("Cache-Control", ""))
        raise UnusableAnswer(f"there are more than {MOST_REDIRECTS} redirections")

    def _take(self, keys: KeySet) -> None:
        if self.away:
            log.info("fetched the keys of JWTs from %s again", self._url)
        self.away = False
        problem = None if keys.problem is None else f"the keys of JWTs at {self._url}: {keys.problem}"
        if problem is not None and problem != self.problem:
            log.warning("the set of keys at %s has a problem: %s", self._url, keys.problem)
        self.problem = problem
        self.keys = keys
        self._on_change()

    def _fail(self, reason: str) -> None:
        reason = reason[:300]
        if not self.away:
            kept = "JWTs get error 28 until they are there" if self.keys is None else "the known keys go on working"
            log.warning("cannot fetch the keys of JWTs from %s: %s; %s", self._url, reason, kept)
        self.away = True
        self.problem = f"the keys of JWTs cannot be fetched from {self._url}: {reason}"


def _redirected(url: URL, response: aiohttp.ClientResponse) -> URL:
    """Return the URL to which an answer redirects. Raises `ValueError` if keys may not be fetched there."""
    target = url.join(URL(response.headers.get("Location", "")))
    if target.scheme != url.scheme:
        raise ValueError(f"it redirects from {url.scheme} to {target.scheme}")
    check_url(str(target))
    return target


def _time_of_use(cache_control: str) -> float:
    """Return the time in seconds after which an answer with this header is to be fetched again."""
    if _AT_ONCE.search(cache_control):
        return SOONEST
    found = _MAX_AGE.search(cache_control)
    return USUAL if found is None else min(max(float(found[1]), SOONEST), LATEST)
