"""JSON over HTTP with patience: connections kept open, retries with backoff, a rate limit, deadlines, secrets that are never said.

What a request may have cost is told to whoever pays: `send` just before its bytes leave, `refund` where the server has refused it.
The standard library is enough here: only `http.client` shows when the bytes leave, which the account is kept by.
"""

import email.utils
import http.client
import json
import os
import re
import selectors
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import SplitResult, urlsplit

from hauberk.errors import ModelError, SettingError
from hauberk.victims.victim import first_line

__all__ = ["Bill", "Transport", "check_url", "from_environment"]

_REFUSED = {408, 429, 503}
"""The server has not answered and asks to come back: retried, and not charged."""
_ON_THE_WAY = {502, 504}
"""Somebody between has lost the answer: retried, and charged, since the model may have answered."""
_LONGEST_WAIT = 300.0  # seconds that a Retry-After is obeyed for
_LONGEST_BACKOFF = 60.0
_LARGEST = 1 << 28  # bytes of an answer
_SECRET = re.compile(r"auth|cookie|key|token|secret|passw|credential|signature", re.IGNORECASE)
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|([A-Za-z_]\w*))")
_CURES = {
    400: "check the shape of the examples, and body and input names",
    401: "give a credential with headers (--header 'Authorization: Bearer $TOKEN')",
    403: "check the credential in headers (--header)",
    404: "check the address and the model's name",
    405: "check the address: it takes no POST",
    413: "send fewer rows a request with batch (--request-rows)",
    422: "check the body (--body)",
}


class Bill(Protocol):
    """Whoever pays for a request."""

    def send(self) -> None:
        """The bytes leave now; raises where there is no money."""
        ...

    def refund(self) -> None:
        """The server has refused."""
        ...


@dataclass(frozen=True)
class _Failure:
    """Why an attempt failed, and how long the server asks to wait."""

    said: str
    wait: float | None = None


class Transport:
    """Asks one server.

    Args:
        url: http or https; only its host and port are used here.
        headers: sent with each request; `$NAME` stands for a variable of the environment.
        timeout: seconds for connecting, and for a whole answer.
        retries: attempts after the first.
        backoff: seconds before the first retry, doubled each time, with a jitter of half.
        rate: requests a second, all connections together; None for no limit.
        sleep: how to wait.

    Raises:
        SettingError: a header that holds a secret in plain text, or a variable that is not set.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        timeout: float,
        retries: int,
        backoff: float,
        rate: float | None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._at, self._timeout, self._retries, self._backoff, self._sleep = (
            urlsplit(url),
            timeout,
            retries,
            backoff,
            sleep,
        )
        self._headers, self._secrets = _resolved(headers)
        self._gap = 0.0 if rate is None else 1 / rate
        self._next, self._lock = 0.0, threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        weakref.finalize(self, _hang_up, self._idle)
        self.requests = 0

    def exchange(self, method: str, target: str, body: bytes | None, name: str, bill: Bill | None = None) -> Any:
        """The JSON that the server answers.

        Raises:
            ModelError: it cannot be reached, refuses, or answers something else.
            BudgetError: raised by the bill.
        """
        target, secrets = from_environment(target, "the address")
        self._secrets |= secrets
        failure = _Failure("")
        for attempt in range(self._retries + 1):
            if attempt:
                self._sleep(self._pause(attempt, failure, body or b""))
            self._take_turn()
            found = self._attempt(method, target, body, name, bill)
            if not isinstance(found, _Failure):
                return self._parsed(found, name)
            failure = found
        tries = f" {self._retries + 1} times" if self._retries else ""
        raise ModelError(
            f"{name!r} was asked{tries} and {failure.said}; see whether the server runs, or give it more retries (--retries), "
            "backoff (--backoff) or timeout (--request-timeout)"
        )

    def _attempt(self, method: str, target: str, body: bytes | None, name: str, bill: Bill | None) -> bytes | _Failure:
        try:
            connection = self._connected()
        except (OSError, http.client.HTTPException) as error:  # nothing was sent
            return _Failure(f"cannot be reached at {self._at.netloc} ({self._plain(_reason(error))})")
        if bill is not None:
            try:
                bill.send()
            except BaseException:
                self._give_back(connection)
                raise
        deadline = time.monotonic() + self._timeout
        with self._lock:
            self.requests += 1
        try:
            headers = {"Accept": "application/json"} | self._headers
            if body is not None:
                headers = {"Content-Type": "application/json"} | headers
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            content = _read(response, deadline)
        except (OSError, http.client.HTTPException) as error:  # it may have been answered
            connection.close()
            return _Failure(f"gave no answer ({self._plain(_reason(error))})")
        except BaseException:
            connection.close()
            raise
        if response.will_close:
            connection.close()
        else:
            self._give_back(connection)
        status = response.status
        if 200 <= status < 300:
            return content
        said = f"answered {status} {response.reason or ''}".rstrip()
        if status in _REFUSED:
            _refund(bill)
            return _Failure(f"{said}{self._quoted(content)}", _wait(response.getheader("Retry-After"), name))
        if status in _ON_THE_WAY:
            return _Failure(f"{said}{self._quoted(content)}")
        if status < 500:
            _refund(bill)
        if 300 <= status < 400:
            where = self._plain(response.getheader("Location") or "another address")
            raise ModelError(
                f"{name!r} {said}, which leads to {where}; give that address, redirections are not followed"
            )
        cure = _CURES.get(status, "look into the server's log" if status >= 500 else "check the request")
        raise ModelError(f"{name!r} {said}{self._quoted(content)}; {cure}")

    def _parsed(self, content: bytes, name: str) -> Any:
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            began = self._plain(content[:60].decode("utf-8", "replace").strip()) if content.strip() else ""
            got = f"text that begins {began!r}" if began else "nothing"
            raise ModelError(f"{name!r} answers {got}, expected JSON; check the address") from None

    def _connected(self) -> http.client.HTTPConnection:
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                break
            if connection.sock is not None and not _is_readable(connection.sock):  # readable: the server has hung up
                return connection
            connection.close()
        host, port = self._at.hostname or "", self._at.port
        if self._at.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(host, port, timeout=self._timeout, context=context)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=self._timeout)
        connection.connect()
        return connection

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._idle.append(connection)

    def close(self) -> None:
        """Hang up."""
        with self._lock:
            _hang_up(self._idle)

    def _take_turn(self) -> None:
        if not self._gap:
            return
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._gap
        if turn > now:
            self._sleep(turn - now)

    def _pause(self, attempt: int, failure: _Failure, body: bytes) -> float:
        if failure.wait is not None:
            return failure.wait
        spread = (sum(body[-64:]) + 37 * attempt) % 101 / 100  # no chance: other requests come at other moments
        return min(self._backoff * 2 ** (attempt - 1), _LONGEST_BACKOFF) * (0.5 + 0.5 * spread)

    def _quoted(self, content: bytes) -> str:
        """What the server says beside its status."""
        text = content[:2000].decode("utf-8", "replace")
        try:
            document = json.loads(content)
            text = next((str(document[key]) for key in ("error", "message", "detail") if key in document), text)
        except (ValueError, TypeError, RecursionError):
            pass
        text = re.sub(r"<[^>]*>", " ", text)
        text = " ".join(self._plain(text).split())
        return f" ({text if len(text) <= 160 else text[:157] + '...'})".replace(" ()", "")

    def _plain(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return "".join(letter if letter.isprintable() else " " for letter in text)


def check_url(url: str) -> SplitResult:
    """The parts of an address that can be asked.

    Raises:
        ModelError: it is none.
        SettingError: it holds a password.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ModelError(f"{url!r} is no address: {error}; write http://HOST:PORT/v2/models/NAME") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ModelError(f"{url!r} is no address; write http://HOST:PORT/v2/models/NAME")
    if parts.username is not None or parts.password is not None:
        raise SettingError(
            f"an address holds no user and password, got one for {parts.hostname}; give headers={{'Authorization': 'Basic $NAME'}} "
            "(--header), which reads the variable NAME of the environment"
        )
    for pair in parts.query.split("&"):
        key, _, value = pair.partition("=")
        if _SECRET.search(key) and value and not _VARIABLE.search(value):
            raise SettingError(
                f"the address gives {key} in plain text, where run folders would keep it; write {key}=$NAME with the name of a "
                "variable of the environment"
            )
    return parts


def from_environment(text: str, what: str) -> tuple[str, set[str]]:
    """The text with `$NAME` and `${NAME}` replaced by variables of the environment, and what must not be said of it.

    Raises:
        SettingError: a variable is not set.
    """
    secrets: set[str] = set()

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        found = os.environ.get(name, "")
        if not found:
            raise SettingError(f"{what} needs the variable {name} of the environment, which is not set; export it")
        secrets.add(found)
        return found

    return _VARIABLE.sub(value, text), secrets


def _resolved(headers: Mapping[str, str]) -> tuple[dict[str, str], set[str]]:
    made: dict[str, str] = {}
    secrets: set[str] = set()
    for key, text in headers.items():
        if not isinstance(key, str) or not isinstance(text, str) or not re.fullmatch(r"[!#$%&'*+.^_`|~\w-]+", key):
            raise SettingError(f"headers map names to texts, got {key!r}; write 'Name: value'")
        if _SECRET.search(key) and not _VARIABLE.search(text):
            raise SettingError(
                f"the header {key} holds a secret in plain text; write $NAME in it, the name of a variable of the environment, in "
                "single quotes where a shell reads it"
            )
        value, found = from_environment(text, f"the header {key}")
        if re.search(r"[\r\n\0]", value):
            raise SettingError(f"the header {key} has a line break in it; look at the variable it is made of")
        made[key] = value
        secrets |= found
    return made, secrets


def _hang_up(idle: list[http.client.HTTPConnection]) -> None:
    while idle:
        idle.pop().close()


def _refund(bill: Bill | None) -> None:
    if bill is not None:
        bill.refund()


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    """The whole body, before the deadline."""
    parts: list[bytes] = []
    size = 0
    while piece := response.read1(1 << 16):
        parts.append(piece)
        size += len(piece)
        if time.monotonic() > deadline:
            raise TimeoutError("the answer did not end in time")
        if size > _LARGEST:
            raise http.client.HTTPException(f"the answer is larger than {_LARGEST >> 20} MiB")
    if response.length:  # read1 does not complain of a body that is cut short
        raise http.client.IncompleteRead(b"", response.length)
    response.read()  # nothing is left, and only this call tells the connection so
    return b"".join(parts)


def _is_readable(sock: Any) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        return bool(selector.select(0))


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, http.client.IncompleteRead):
        return "the answer was cut short"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return _shown(error)


def _shown(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}" if str(error) else type(error).__name__


def _wait(header: str | None, name: str) -> float | None:
    """Seconds of a Retry-After, which is a number of them or a date."""
    if header is None:
        return None
    seconds: float | None = None
    if re.fullmatch(r"\d{1,9}", header.strip()):
        seconds = float(header)
    else:
        try:
            seconds = (email.utils.parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    if seconds > _LONGEST_WAIT:
        raise ModelError(f"{name!r} asks to be left alone for {seconds:.0f} seconds (Retry-After); begin again then")
    return max(seconds, 0.0)
