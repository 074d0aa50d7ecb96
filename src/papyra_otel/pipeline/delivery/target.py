"""Where facts are delivered to: what the ``OTEL_EXPORTER_OTLP_*`` variables say, checked.

They mean what they mean to the SDK's own OTLP log exporters of this language, so that delivery needs no settings of its
own: those with ``_LOGS_`` go first; times are seconds; the protocol is gRPC unless they say otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from opentelemetry.util.re import parse_env_headers

from papyra_otel.errors import ConfigError
from papyra_otel.payload import redact_url

__all__ = ["GRPC", "HTTP", "Target"]

GRPC: Final = "grpc"
HTTP: Final = "http/protobuf"
_PREFIX = "OTEL_EXPORTER_OTLP_"
_COMPRESSIONS = {GRPC: ("none", "gzip"), HTTP: ("none", "gzip", "deflate")}
_TIMEOUT_SECONDS = 10.0
_PATH = "v1/logs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One OTLP receiver of log records. *headers* and keys are secrets: they are not in ``repr``.

    *endpoint* is a URL with its path for HTTP, ``host:port`` (or what else gRPC resolves) for gRPC; *ca*, *certificate*
    and *key* are paths of files. *timeout_seconds* is for one request.
    """

    protocol: str
    endpoint: str
    insecure: bool
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    compression: str = "none"
    timeout_seconds: float = _TIMEOUT_SECONDS
    ca: str | None = None
    certificate: str | None = None
    key: str | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """How operators know it, credentials masked."""
        return (
            f"{redact_url(self.endpoint)} ({'OTLP over gRPC' if self.protocol == GRPC else 'OTLP over HTTP'})"
        )

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> Target:
        """Return what *environ* (the process's by default) says. Raises ConfigError naming the variable."""
        read = _Reader(os.environ if environ is None else environ)
        protocol = read("PROTOCOL", GRPC).lower()
        if protocol not in _COMPRESSIONS:
            raise ConfigError(
                f"{read.name('PROTOCOL')}={protocol!r} is not supported for delivery; use {GRPC} or {HTTP}"
            )
        compression = read("COMPRESSION", "none").lower()
        if compression not in _COMPRESSIONS[protocol]:
            raise ConfigError(
                f"{read.name('COMPRESSION')}={compression!r} is not one of {', '.join(_COMPRESSIONS[protocol])}"
            )
        endpoint, insecure = _grpc_endpoint(read) if protocol == GRPC else _http_endpoint(read)
        headers = parse_env_headers(read("HEADERS", ""), liberal=True)
        return cls(
            protocol=protocol,
            endpoint=endpoint,
            insecure=insecure,
            headers=headers,
            compression=compression,
            timeout_seconds=_timeout(read),
            ca=_file(read, "CERTIFICATE"),
            certificate=_file(read, "CLIENT_CERTIFICATE"),
            key=_file(read, "CLIENT_KEY"),
        )


class _Reader:
    """Reads a variable: that of the signal, else the general one."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def __call__(self, what: str, default: str) -> str:
        return self._environ.get(self.name(what), "").strip() or default

    def name(self, what: str) -> str:
        """Return the name of the variable that decides."""
        own = f"{_PREFIX}LOGS_{what}"
        return own if self._environ.get(own, "").strip() else _PREFIX + what


def _http_endpoint(read: _Reader) -> tuple[str, bool]:
    name = read.name("ENDPOINT")
    url = read("ENDPOINT", "http://localhost:4318")
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError(f"{name}={redact_url(url)!r} is not a URL such as http://collector:4318")
    if name == f"{_PREFIX}LOGS_ENDPOINT":  # as it is, the specification says
        return url, parts.scheme == "http"
    return f"{url.rstrip('/')}/{_PATH}", parts.scheme == "http"


def _grpc_endpoint(read: _Reader) -> tuple[str, bool]:
    url = read("ENDPOINT", "http://localhost:4317")
    parts = urlsplit(url)
    if parts.scheme in {"http", "https"}:
        if not parts.netloc:
            raise ConfigError(f"{read.name('ENDPOINT')}={url!r} names no host, as http://collector:4317 does")
        return parts.netloc.rpartition("@")[2], parts.scheme == "http"
    return url, read("INSECURE", "false").lower() == "true"


def _timeout(read: _Reader) -> float:
    text = read("TIMEOUT", str(_TIMEOUT_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{read.name('TIMEOUT')}={text!r} is not a number of seconds above 0")
    return seconds


def _file(read: _Reader, what: str) -> str | None:
    path = read(what, "")
    if path and not os.access(path, os.R_OK):
        raise ConfigError(f"{read.name(what)}={path!r}: there is no such file that can be read")
    return path or None
