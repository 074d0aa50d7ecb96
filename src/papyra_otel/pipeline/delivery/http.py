"""OTLP over HTTP, one request at a time. Nothing is tried again here: what the answer means is told."""

from __future__ import annotations

import gzip
import time
import zlib
from collections.abc import Callable
from email.utils import parsedate_to_datetime

import requests
from opentelemetry.instrumentation.utils import suppress_instrumentation

from papyra_otel.pipeline.delivery.answers import accepted, status_message
from papyra_otel.pipeline.delivery.outcome import Later, Outcome, Refused, one_line
from papyra_otel.pipeline.delivery.target import Target

__all__ = ["HttpClient"]

_BODY_BYTES_MAX = 1 << 16
_CHUNK_BYTES = 1 << 12
_OK, _MULTIPLE_CHOICES = 200, 300
_NOT_NOW = frozenset({429, 502, 503, 504})  # what the specification calls retryable
_BAD_DATA = frozenset({400, 413, 422})
_SERVER_ERROR = 500
_PROTOBUF = "application/x-protobuf"


class HttpClient:
    """A receiver that is spoken to over HTTP, by ``requests`` as the SDK's exporter does. For one thread."""

    def __init__(
        self,
        target: Target,
        *,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target
        self._clock = clock
        self._ticks = ticks
        self._headers = {
            **{name.lower(): value for name, value in target.headers.items()},
            "content-type": _PROTOBUF,
            "user-agent": "papyra-otel",
        }
        if target.compression != "none":
            self._headers["content-encoding"] = target.compression
        self._session = requests.Session()

    def send(self, request: bytes, timeout_seconds: float) -> Outcome:
        """Send a serialized request; return what the receiver made of it. Takes about *timeout_seconds* at most."""
        ends = self._ticks() + timeout_seconds
        target = self._target
        try:
            with suppress_instrumentation():
                response = self._session.post(
                    target.endpoint,
                    data=_compressed(request, target.compression),
                    headers=self._headers,
                    timeout=timeout_seconds,
                    allow_redirects=False,
                    stream=True,
                    verify=target.ca or True,
                    cert=(target.certificate, target.key)
                    if target.certificate and target.key
                    else target.certificate,
                )
                with response:
                    return self._outcome(response, self._body(response, ends))
        except requests.exceptions.SSLError as error:
            return Later(error_type="tls", message=one_line(str(error)))
        except requests.exceptions.Timeout:
            return Later(error_type="timeout", message=f"no answer within {timeout_seconds:g} s")
        except (requests.exceptions.RequestException, OSError) as error:
            return Later(error_type="connection", message=_reason(error))

    def close(self) -> None:
        """Give up connections."""
        self._session.close()

    def _body(self, response: requests.Response, ends: float) -> bytes:
        """Return the beginning of what the receiver says, as much as comes in time: the status has said the rest."""
        body = b""
        try:
            for chunk in response.iter_content(_CHUNK_BYTES):
                body += chunk
                if len(body) >= _BODY_BYTES_MAX or self._ticks() >= ends:
                    break
        except (requests.exceptions.RequestException, OSError):
            pass
        return body

    def _outcome(self, response: requests.Response, body: bytes) -> Outcome:
        status = response.status_code
        if _OK <= status < _MULTIPLE_CHOICES:
            return accepted(body)
        message = f"HTTP {status} {_said(response, body)}".rstrip()
        if status in _NOT_NOW:
            after = _after_seconds(response.headers.get("retry-after", ""), self._clock())
            return Later(error_type=str(status), message=message, after_seconds=after)
        if status in _BAD_DATA:
            return Refused(error_type=str(status), message=message)
        return Later(error_type=str(status), message=message, suspect=status >= _SERVER_ERROR)


def _said(response: requests.Response, body: bytes) -> str:
    if response.headers.get("content-type", "").startswith(_PROTOBUF):
        return one_line(status_message(body))
    return one_line(body.decode(errors="replace"))


def _after_seconds(text: str, now: float) -> float | None:
    """Read ``Retry-After``: seconds, or a date."""
    if text.isascii() and text.isdigit() and len(text) < 10:  # noqa: PLR2004 - longer is nonsense
        return float(text)
    try:
        return max(parsedate_to_datetime(text).timestamp() - now, 0.0)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _compressed(request: bytes, compression: str) -> bytes:
    if compression == "gzip":
        return gzip.compress(request, 6)
    return zlib.compress(request) if compression == "deflate" else request


def _reason(error: Exception) -> str:
    """Return the innermost reason: what wraps it repeats URL and objects."""
    inner: BaseException = error
    while (deeper := getattr(inner, "reason", None) or inner.__cause__ or inner.__context__) is not None:
        if not isinstance(deeper, BaseException):
            break
        inner = deeper
    return one_line(f"{type(inner).__name__}: {getattr(inner, 'strerror', None) or inner}")
