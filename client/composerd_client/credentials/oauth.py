"""Access tokens of a token server (OAuth 2.0), which are fetched ahead of their end."""

import asyncio
import logging
import random
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Literal

from composerd_client.credentials.tokens import Credentials, secret_in
from composerd_client.errors import TokenRefused, TokenUnavailable

log = logging.getLogger(__name__)

RENEW_AFTER = (0.7, 0.85)
"""The parts of a token's life between which a new one is fetched, so that many clients do not ask at one moment."""

_SPARE = 5.0
"""Seconds before its end from which a token is used only if there is no other; a tenth of a short life."""

_WAIT_FOR = 45.0
"""Seconds that a request waits for a token: longer than a fetch may take."""

_FIRST_PAUSE = 0.5
"""Seconds of the first pause after a fetch that has failed; each following one is twice as long, and partly random."""

_LONGEST_PAUSE = 30.0

_RENEW_REFUSED_AFTER = 5.0
"""Seconds that are doubled each time that the server refuses a new token; so long it is not replaced."""

_LONGEST_REFUSED = 300.0

_SAY_EVERY = 60.0
"""Seconds between two lines in the log about fetches that fail."""


class _Access:
    """An access token, and times of `time.monotonic()`."""

    def __init__(self, token: str, asked_at: float, lifetime: float) -> None:
        self.token = token
        self.fetched_at = time.monotonic()
        self.renew_at = asked_at + lifetime * random.uniform(*RENEW_AFTER)
        self.ends_at = asked_at + lifetime

    @property
    def is_safe(self) -> bool:
        """True if it will not end before a request with it has arrived."""
        left = self.ends_at - time.monotonic()
        return left > min(_SPARE, (self.ends_at - self.fetched_at) / 10)


class OAuth(Credentials):
    """Access tokens that a token server gives for a refresh token, or else for the client's id and secret.

    `client_secret` and `refresh_token` are the secrets themselves; `client_secret_file` and `refresh_token_file` name
    files that have them, which are read again for each request. If the token server replaces the refresh token, the new
    one is written to its file, or kept in memory if there is none. `scope`, `audience` and `resource` are sent if they
    are not empty. A secret is sent in the header (`basic`), which every token server has to accept (RFC 6749, 2.3.1),
    or, with `client_authentication="post"`, in the form. `ca_file` has the CA of the token server in PEM, unless the
    system trusts it, and `proxy` is as for `ComposerClient`.

    All clients that share this object share its tokens. A new one is fetched ahead of the end of the latest one, which
    stays in use until its end if the token server does not answer. Raises `ValueError` if an argument is invalid.
    """

    def __init__(
        self,
        token_url: str,
        *,
        client_id: str = "",
        client_secret: str | None = None,
        client_secret_file: Path | str | None = None,
        refresh_token: str | None = None,
        refresh_token_file: Path | str | None = None,
        scope: str = "",
        audience: str = "",
        resource: str = "",
        client_authentication: Literal["basic", "post"] = "basic",
        ca_file: Path | str | None = None,
        proxy: str | None = None,
        insecure_http: bool = False,
    ) -> None:
        # Imported here, because ssl and yarl take a third of the time that the package may take to import.
        from composerd_client.credentials.refresh_tokens import RefreshToken  # noqa: PLC0415
        from composerd_client.credentials.token_server import TokenServer  # noqa: PLC0415

        super().__init__(insecure_http=insecure_http)
        if client_authentication not in ("basic", "post"):
            raise ValueError(f"client_authentication is basic or post, and not {client_authentication[:40]!r}")
        self._server = TokenServer(token_url, ca_file=ca_file, proxy=proxy, insecure_http=insecure_http)
        self._client_id = client_id
        self._client_secret = client_secret
        self._client_secret_file = None if client_secret_file is None else Path(client_secret_file)
        self._in_form = client_authentication == "post"
        self._asked = {"scope": scope, "audience": audience, "resource": resource}
        self._refresh_token: RefreshToken | None = None
        if refresh_token or refresh_token_file is not None:
            self._refresh_token = RefreshToken(refresh_token, refresh_token_file)
        elif not client_id or not self._secret():
            raise ValueError("OAuth needs a client id and a client secret, or a refresh token; secrets may be in files")
        if self._secret() and not client_id:
            raise ValueError("OAuth needs the client id that belongs to the client secret")
        self._lock = threading.Lock()
        self._access: _Access | None = None
        self._fetch: Future[_Access] | None = None
        """The fetch that is running."""
        self._failure: TokenRefused | TokenUnavailable | None = None
        """The error of the latest fetch."""
        self._failures = 0
        """The number of fetches that have failed, one after the other."""
        self._pause_until = 0.0
        self._said_at = float("-inf")
        self._refusals = 0
        """The number of tokens that the server has refused, one after the other."""

    async def token(self) -> str:
        """Return an access token. Raises `TokenUnavailable` and `TokenRefused` if there is none."""
        with self._lock:
            access = self._access
            if access is not None and time.monotonic() < access.renew_at:
                return access.token
            fetch = self._fetch_now()
        if access is not None and access.is_safe:
            return access.token
        try:
            return (await self._ended(fetch)).token
        except (TokenRefused, TokenUnavailable):
            if access is not None and time.monotonic() < access.ends_at:
                return access.token
            raise

    async def renewed(self, refused: str) -> bool:
        """Fetch another token than the refused one, unless there is one. Return False if it is too early for that.

        Raises `TokenUnavailable` and `TokenRefused`.
        """
        with self._lock:
            access, fetch = self._access, self._fetch
            if access is not None and access.token != refused:
                return True
            if fetch is None:
                if access is not None and time.monotonic() < access.fetched_at + self._refused_pause:
                    return False
                self._refusals += 1
                fetch = self._fetch_now()
        return (await self._ended(fetch)).token != refused

    def accepted(self, token: str) -> None:  # noqa: ARG002  # which token it was does not matter
        """Note that the server has accepted a token."""
        self._refusals = 0

    @property
    def _refused_pause(self) -> float:
        """The seconds for which a new token is not replaced because the server refuses it."""
        return min(_RENEW_REFUSED_AFTER * 2**self._refusals, _LONGEST_REFUSED) if self._refusals else 0.0

    def _fetch_now(self) -> Future[_Access] | None:
        """Return the fetch that is running, or a new one; None until the pause after a failure is over."""
        if self._fetch is None and time.monotonic() >= self._pause_until:
            fetch: Future[_Access] = Future()
            fetch.set_running_or_notify_cancel()  # otherwise a request that is canceled would cancel it for all
            # A thread of its own, because the requests that share the fetch may be in different event loops.
            thread = threading.Thread(target=self._run, args=(fetch,), name="composerd token", daemon=True)
            try:
                thread.start()
            except RuntimeError as exc:
                self._failed(TokenUnavailable(f"no thread can be started to get a token: {exc}"))
            else:
                self._fetch = fetch
        return self._fetch

    async def _ended(self, fetch: Future[_Access] | None) -> _Access:
        """Return what a fetch has brought. Raises its error; without a fetch, the one of the latest fetch."""
        if fetch is not None:
            try:
                async with asyncio.timeout(_WAIT_FOR):
                    return await asyncio.wrap_future(fetch)
            except TimeoutError:
                with self._lock:
                    if self._fetch is fetch:  # it may belong to the process that this one was forked from
                        self._fetch = None
                raise TokenUnavailable(f"{self._server.url} has not given a token in time") from None
            except (TokenRefused, TokenUnavailable) as exc:
                raise type(exc)(str(exc)) from exc  # each request has its own
        assert self._failure is not None
        raise type(self._failure)(str(self._failure))

    def _run(self, fetch: Future[_Access]) -> None:
        """Fetch a token, in a thread."""
        try:
            access = self._fetched()
        except (TokenRefused, TokenUnavailable) as exc:
            with self._lock:
                self._fetch = None
                self._failed(exc)
            fetch.set_exception(exc)
        except BaseException as exc:
            with self._lock:
                self._fetch = None
            fetch.set_exception(exc)
            raise
        else:
            with self._lock:
                self._fetch = None
                self._access = access
                self._failures = 0
            fetch.set_result(access)

    def _failed(self, error: TokenRefused | TokenUnavailable) -> None:
        now = time.monotonic()
        self._failure = error
        self._pause_until = now + min(_FIRST_PAUSE * 2**self._failures, _LONGEST_PAUSE) * random.uniform(0.5, 1.0)
        self._failures += 1
        left = 0.0 if self._access is None else self._access.ends_at - now
        if left > 0 and now - self._said_at >= _SAY_EVERY:
            self._said_at = now
            log.warning("cannot renew the token, which is valid for %.0f s more, trying again: %s", left, error)

    def _fetched(self) -> _Access:
        try:
            secret = self._secret()
        except ValueError as exc:
            raise TokenRefused(str(exc)) from exc
        asked_at = time.monotonic()
        if self._refresh_token is None:
            form = {"grant_type": "client_credentials", **self._asked}
            issued = self._server.issue(form, self._client_id, secret, in_form=self._in_form)
            return _Access(issued.token, asked_at, issued.lifetime)
        with self._refresh_token.held() as refresh_token:
            form = {"grant_type": "refresh_token", "refresh_token": refresh_token, **self._asked}
            issued = self._server.issue(form, self._client_id, secret, in_form=self._in_form)
            if issued.refresh_token and issued.refresh_token != refresh_token:
                self._refresh_token.keep(issued.refresh_token)
        return _Access(issued.token, asked_at, issued.lifetime)

    def _secret(self) -> str:
        """Return the client's secret, or an empty text. Raises `ValueError` if it cannot be read."""
        if self._client_secret_file is not None:
            return secret_in(self._client_secret_file, "the file with the client secret").strip()
        return self._client_secret or ""
