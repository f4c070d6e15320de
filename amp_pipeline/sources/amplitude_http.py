"""Asking Amplitude's servers: what is tried again and how often, what an answer means, and where keys are never sent.

For callers: ``Http(source).get(path, params, seen={404})`` returns an open, streaming answer, to be closed by ``with``;
``Http(source).read(path, read, params)`` calls ``read(answer)`` as well, and does both again where the answer breaks
off. Bodies are read by ``chunks``, within bounds. Everything but 200 to 299 and the statuses in ``seen`` is a
:class:`SourceError`. Redirects are followed; only the server that was configured is given the keys. Proxies and
certificates are those of the environment.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from importlib.metadata import version
from typing import Literal, TypeVar
from urllib.parse import quote, quote_plus, urljoin, urlsplit

import requests
import urllib3
from requests.auth import AuthBase, HTTPBasicAuth

from amp_pipeline.core.errors import AmpError
from amp_pipeline.source_settings import AmplitudeExport
from amp_pipeline.sources import answer_body
from amp_pipeline.sources.answer_body import BrokenAnswerError

Kind = Literal["credentials", "network", "throttled", "server"]

_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 60.0
_LONGEST_ASKED_SECONDS = 900.0
"""A server that asks for more patience than this is given up on; an hour is tried again by later runs."""
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
_READ_OF_ERROR_BYTES = 4096
_LONGEST_TEXT = 200
_SHORT_KEY = 8

_NO_ADDRESS = "it redirects to what is no address"
_TAGS = re.compile(r"<[^>]*>")
_QUERY = re.compile(r"(https?://[^\s?\"'<>]*)\?[^\s\"'<>]*")
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\x9f]+")

T = TypeVar("T")
Params = Mapping[str, str | int]


class SourceError(AmpError):
    """A server did not give what it was asked for, however often; the message holds no key and no address of a file."""

    def __init__(self, message: str, kind: Kind, status: int = 0, *, broke_off: bool = False) -> None:
        """Say what is wrong.

        Args:
            message: For people.
            kind: ``credentials``: keys or region are wrong; ``throttled``: too many requests; ``network``: no whole
                answer came; ``server``: any other refusal.
            status: Of HTTP; 0 where there was no answer.
            broke_off: An answer began and was not whole or can't be used, or was waited for too long: asking for less
                may do.
        """
        super().__init__(message)
        self.kind: Kind = kind
        self.status = status
        self.broke_off = broke_off


_BROKE_OFF = (
    BrokenAnswerError,
    requests.exceptions.ReadTimeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
    urllib3.exceptions.DecodeError,
    urllib3.exceptions.ProtocolError,
    urllib3.exceptions.ReadTimeoutError,
)


class Http:
    """A server of Amplitude's APIs. May be used by several threads."""

    def __init__(
        self,
        source: AmplitudeExport,
        *,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.time,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """Use keys, address, timeouts and attempts of ``source``.

        Args:
            source: What the user wrote.
            sleep: Waits some seconds.
            now: Seconds since 1970, for a Retry-After that is a date.
            tell: Is told why is waited, each time.
        """
        self.base = source.base
        self._attempts = source.attempts
        self._timeout = (source.connect_timeout, source.read_timeout)
        api_key, secret_key = source.api_key.get_secret_value(), source.secret_key.get_secret_value()
        self._keys = HTTPBasicAuth(api_key.encode(), secret_key.encode())
        self._secrets = _spellings(api_key, secret_key)
        self._sleep = sleep
        self._now = now
        self._tell = tell or (lambda _: None)
        self._session = requests.Session()
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers["User-Agent"] = f"amp_pipeline/{version('amp-pipeline')}"

    def get(self, path: str, params: Params | None = None, *, seen: Collection[int] = ()) -> requests.Response:
        """Ask until there is an answer, and return it, its body not yet read; the caller closes it.

        Args:
            path: Like ``/api/2/export``.
            params: Of the query.
            seen: Statuses that the caller wants to see itself, at once; 200 to 299 always are.

        Raises:
            SourceError: There is none.
        """
        return self._until_whole(path, params, frozenset(seen), lambda answer: answer)

    def read(
        self,
        path: str,
        read: Callable[[requests.Response], T],
        params: Params | None = None,
        *,
        seen: Collection[int] = (),
    ) -> T:
        """Ask, and return what ``read`` makes of the answer; both again where the answer breaks off.

        ``read`` begins afresh each time. It may raise :class:`BrokenAnswerError`, without secrets.

        Raises:
            SourceError: No whole answer came.
        """

        def closed(answer: requests.Response) -> T:
            with answer:
                return read(answer)

        return self._until_whole(path, params, frozenset(seen), closed)

    def chunks(self, answer: requests.Response, most: int) -> Iterator[bytes]:
        """Yield the body of an answer as it comes, at most ``most`` bytes; see :func:`answer_body.chunks`.

        Raises:
            BrokenAnswerError: It comes too slowly.
            TooLongError: It has more bytes.
        """
        return answer_body.chunks(answer, most, self._timeout[1])

    def said(self, answer: requests.Response) -> str:
        """Return how what a server says begins, as :meth:`explained` does."""
        return self.explained(self.beginning(answer, _READ_OF_ERROR_BYTES).decode("utf-8", "replace"))

    def beginning(self, answer: requests.Response, most: int) -> bytes:
        """Return the first ``most`` bytes of an answer, or fewer where they can't be had."""
        return answer_body.beginning(answer, most, self._timeout[1])

    def explained(self, text: str) -> str:
        """Return what a server said, short and without keys, markup and queries of addresses."""
        text = self._secrets.sub("…", text)
        plain = _UNPRINTABLE.sub(" ", _TAGS.sub(" ", _QUERY.sub(r"\1?…", text))).strip()
        return plain if len(plain) <= _LONGEST_TEXT else plain[:_LONGEST_TEXT] + "…"

    def _until_whole(
        self, path: str, params: Params | None, seen: frozenset[int], read: Callable[[requests.Response], T]
    ) -> T:
        tried = 0
        while True:
            tried += 1
            asked: float | None = None
            try:
                answer = self._ask(path, params)
                if answer.ok and answer.status_code < 300 or answer.status_code in seen:
                    return read(answer)
                asked = self._asked_wait(answer)
                error = self._refused(path, answer)
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, BrokenAnswerError) as trouble:
                if isinstance(trouble, OSError) and not isinstance(trouble, requests.RequestException):
                    # Of a disk that is full, say: the reader's own.
                    raise
                what = f"{self.base}{path} gave no whole answer: {_of_network(trouble)}"
                error = SourceError(what, "network", broke_off=isinstance(trouble, _BROKE_OFF))
            again = error.kind in ("network", "throttled") or error.status in _AGAIN
            if not again:
                raise error
            if tried >= self._attempts or (asked or 0) > _LONGEST_ASKED_SECONDS:
                raise _given_up(error, tried, asked)
            wait = min(_FIRST_WAIT_SECONDS * 2 ** (tried - 1), _LONGEST_WAIT_SECONDS) if asked is None else asked
            self._tell(f"{error}; tried again in {wait:g} s")
            self._sleep(wait)

    def _ask(self, path: str, params: Params | None) -> requests.Response:
        """Ask once. Redirects are followed by hand, so that it is plain who is given the keys."""
        url, query = f"{self.base}{path}", params
        for _ in range(_MOST_REDIRECTS + 1):
            # Without keys still an object: requests would look for others in a .netrc.
            auth = self._keys if _origin(url) == _origin(self.base) else _NoKeys()
            try:
                answer = self._session.get(
                    url, params=query, auth=auth, timeout=self._timeout, stream=True, allow_redirects=False
                )
            except requests.RequestException:
                raise
            except ValueError:
                # requests looks where a redirect leads also where it is not to follow it.
                raise BrokenAnswerError(_NO_ADDRESS) from None
            except OSError as error:
                # Of the file of certificates that the environment names.
                raise SourceError(f"{self.base}{path} can't be asked: {error}", "network") from None
            target = answer.headers.get("Location")
            if answer.status_code not in _REDIRECTS or target is None:
                return answer
            answer.close()
            here, url, query = url, _joined(url, target), None
            if urlsplit(url).scheme not in ("https", urlsplit(here).scheme):
                raise BrokenAnswerError("it redirects to an address that is not encrypted")
        raise BrokenAnswerError("it redirects again and again")

    def _asked_wait(self, answer: requests.Response) -> float | None:
        """Return how many seconds the server asks to wait, if it does."""
        after = answer.headers.get("Retry-After", "").strip()
        if after.isascii() and after.isdigit():
            return float(after[:9])
        try:
            at = parsedate_to_datetime(after)
            # Of HTTP they are of UTC, whether they say so or not.
            return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - self._now())
        except (ValueError, TypeError, OverflowError):
            return None

    def _refused(self, path: str, answer: requests.Response) -> SourceError:
        status = answer.status_code
        with answer:
            said = self.said(answer)
        own = _origin(answer.url or self.base) == _origin(self.base)
        where = f"{self.base}{path}" + ("" if own else f", sent on to {urlsplit(answer.url).hostname},")
        what = f"{where} answers {status}" + (f": {said}" if said else "")
        if not own and status in (400, 401, 403, 404):
            # An address of a file is good for a minute; a new one is had by asking again.
            return SourceError(what, "network", status)
        if status in (401, 403):
            return SourceError(
                f"{what.rstrip('.')}. Check api_key and secret_key of the project, and the region: projects in the EU "
                "are at https://analytics.eu.amplitude.com, all others at https://amplitude.com",
                "credentials",
                status,
            )
        return SourceError(what, "throttled" if status == 429 else "server", status)


class _NoKeys(AuthBase):
    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        return r


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _joined(here: str, target: str) -> str:
    """Return where a redirect leads.

    Raises:
        BrokenAnswerError: To nothing that is an address.
    """
    try:
        found = urljoin(here, target)
        _origin(found)
    except ValueError:
        raise BrokenAnswerError(_NO_ADDRESS) from None
    return found


def _spellings(api_key: str, secret_key: str) -> re.Pattern[str]:
    """Return what finds the keys in whatever way they may come back; very short ones as words of their own.

    Or `k`, the key of somebody's trial, would be taken out of every word.
    """
    basic = base64.b64encode(f"{api_key}:{secret_key}".encode()).decode()
    found = {basic} | {form for key in (api_key, secret_key) for form in (key, quote(key, safe=""), quote_plus(key))}
    longest_first = sorted(found, key=len, reverse=True)
    forms = [re.escape(one) if len(one) >= _SHORT_KEY else rf"(?<!\w){re.escape(one)}(?!\w)" for one in longest_first]
    return re.compile("|".join(forms))


def _of_network(trouble: Exception) -> str:
    """Say what happened, without addresses: that of a proxy may have a password, that of a file a signature."""
    if isinstance(trouble, BrokenAnswerError):
        return str(trouble)
    kinds: list[tuple[type[Exception], str]] = [
        (requests.exceptions.ProxyError, "the proxy of the environment could not be used"),
        (requests.exceptions.SSLError, "its certificate could not be checked, or TLS failed"),
        (requests.exceptions.ConnectTimeout, "no connection in time"),
        (requests.exceptions.ReadTimeout, "no answer in time"),
        (requests.exceptions.ChunkedEncodingError, "the answer broke off"),
        (requests.exceptions.ContentDecodingError, "the answer can't be unpacked"),
        (requests.exceptions.ConnectionError, "no connection, or it broke off"),
        (urllib3.exceptions.TimeoutError, "the answer stopped coming"),
        (urllib3.exceptions.ProtocolError, "the answer broke off"),
        (urllib3.exceptions.DecodeError, "the answer can't be unpacked"),
    ]
    said = next((words for kind, words in kinds if isinstance(trouble, kind)), type(trouble).__name__)
    for cause in _causes(trouble):
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, requests.RequestException):
            return f"{said} ({cause.strerror})"
    return said


def _causes(trouble: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that it was made of, each library of HTTP keeping them in its own place."""
    found: list[object] = [trouble]
    seen: set[int] = set()
    while found:
        one = found.pop()
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            found += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]


def _given_up(error: SourceError, tried: int, asked: float | None) -> SourceError:
    patience = f"; it asks to wait {asked:.0f} s" if asked else ""
    times = "once" if tried == 1 else f"{tried} times"
    return SourceError(f"{error} (tried {times}{patience})", error.kind, error.status, broke_off=error.broke_off)
