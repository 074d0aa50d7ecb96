"""Settings: frozen, validated, and the only reader of the environment.

The ``OTEL_PYTHON_PAPYRA_*`` constants are also what ``opentelemetry-instrument`` makes its flags from
(``--papyra_log`` and so on): every attribute here that begins with ``OTEL_`` becomes one.
"""

from __future__ import annotations

import difflib
import os
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import unquote

from papyra_otel.errors import ConfigError
from papyra_otel.log.retention import Retention, parse_retention
from papyra_otel.payload import redact_url

__all__ = [
    "ForwardMode",
    "FsyncMode",
    "Grouping",
    "MessagePolicy",
    "PayloadMode",
    "Settings",
    "SpanMode",
    "StartupMode",
    "WriteMode",
    "otlp_protocols",
    "resource_attributes",
]

OTEL_PYTHON_PAPYRA_LOG: Final = "OTEL_PYTHON_PAPYRA_LOG"
OTEL_PYTHON_PAPYRA_SYSTEM: Final = "OTEL_PYTHON_PAPYRA_SYSTEM"
OTEL_PYTHON_PAPYRA_STARTUP: Final = "OTEL_PYTHON_PAPYRA_STARTUP"
OTEL_PYTHON_PAPYRA_RETENTION: Final = "OTEL_PYTHON_PAPYRA_RETENTION"
OTEL_PYTHON_PAPYRA_FSYNC: Final = "OTEL_PYTHON_PAPYRA_FSYNC"
OTEL_PYTHON_PAPYRA_WRITE: Final = "OTEL_PYTHON_PAPYRA_WRITE"
OTEL_PYTHON_PAPYRA_SPILL: Final = "OTEL_PYTHON_PAPYRA_SPILL"
OTEL_PYTHON_PAPYRA_MESSAGES: Final = "OTEL_PYTHON_PAPYRA_MESSAGES"
OTEL_PYTHON_PAPYRA_PAYLOAD: Final = "OTEL_PYTHON_PAPYRA_PAYLOAD"
OTEL_PYTHON_PAPYRA_FORWARD: Final = "OTEL_PYTHON_PAPYRA_FORWARD"
OTEL_PYTHON_PAPYRA_FORWARD_MESSAGES: Final = "OTEL_PYTHON_PAPYRA_FORWARD_MESSAGES"
OTEL_PYTHON_PAPYRA_FORWARD_PAYLOAD: Final = "OTEL_PYTHON_PAPYRA_FORWARD_PAYLOAD"
OTEL_PYTHON_PAPYRA_SPANS: Final = "OTEL_PYTHON_PAPYRA_SPANS"
OTEL_PYTHON_PAPYRA_GROUP: Final = "OTEL_PYTHON_PAPYRA_GROUP"
OTEL_PYTHON_PAPYRA_EXIT_TIMEOUT: Final = "OTEL_PYTHON_PAPYRA_EXIT_TIMEOUT"
OTEL_PYTHON_PAPYRA_METRICS_SOCKET: Final = "OTEL_PYTHON_PAPYRA_METRICS_SOCKET"
OTEL_PYTHON_PAPYRA_AUDIT_INTERVAL: Final = "OTEL_PYTHON_PAPYRA_AUDIT_INTERVAL"
OTEL_PYTHON_PAPYRA_SCAN_INTERVAL: Final = "OTEL_PYTHON_PAPYRA_SCAN_INTERVAL"

_PREFIX = "OTEL_PYTHON_PAPYRA_"
_EXIT_SECONDS_MAX = 3600.0
_MODE = TypeVar("_MODE", bound=Enum)


class StartupMode(str, Enum):
    """What to do about old damage before the first actor runs."""

    IGNORE = "ignore"
    SCAN = "scan"
    RECOVER = "recover"
    FAIL = "fail"


class FsyncMode(str, Enum):
    """When written facts are forced to the disk. A killed process loses nothing in any mode; a power cut may."""

    NEVER = "never"
    INTERVAL = "interval"
    ALWAYS = "always"


class WriteMode(str, Enum):
    """Whether a fact is with the kernel when ``emit`` returns, or waits in the ring for the writer thread.

    A log behind a network is always written by the thread.
    """

    THROUGH = "through"
    QUEUED = "queued"


class PayloadMode(str, Enum):
    """How much of an undeliverable message is kept."""

    NONE = "none"
    REDACTED = "redacted"
    FULL = "full"


class ForwardMode(str, Enum):
    """How facts leave: to the application's own OTel pipeline, from the log to an OTLP receiver, or not."""

    LIVE = "live"
    OUTBOX = "outbox"
    OFF = "off"


class SpanMode(str, Enum):
    """When the handling of a message is a span: never, inside a sampled trace, or whenever the sampler says so."""

    OFF = "off"
    SAMPLED = "sampled"
    ALWAYS = "always"


class Grouping:
    """Which actor types count as one in metrics: ``pattern=name;pattern=name``, the first that matches.

    A pattern is a shell's (``shop.Worker*``, ``*.lambda-?``), upper and lower case differ. Facts keep the type itself.
    """

    def __init__(self, text: str = "") -> None:
        self.text = text
        self._rules: list[tuple[str, str]] = []
        for rule in filter(None, map(str.strip, text.split(";"))):
            pattern, equals, name = (part.strip() for part in rule.rpartition("="))
            if not (pattern and equals and name):
                raise ConfigError(
                    f"{OTEL_PYTHON_PAPYRA_GROUP}: {rule!r} is not pattern=name, as in shop.Worker*=shop.Worker"
                )
            self._rules.append((pattern, name))
        self._known = lru_cache(maxsize=1024)(self._match)

    def __call__(self, actor_type: str) -> str:
        """Return the name under which *actor_type* is counted."""
        return self._known(actor_type) if self._rules else actor_type

    def _match(self, actor_type: str) -> str:
        return next((name for pattern, name in self._rules if fnmatchcase(actor_type, pattern)), actor_type)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grouping) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Grouping({self.text!r})"


class MessagePolicy:
    """Which ``message.processed`` facts are kept: ``all``, ``failed``, ``sampled:N`` or ``off``.

    ``sampled:N`` keeps one in N, and every failed one.
    """

    def __init__(self, text: str = "all", *, pick: Callable[[], float] = random.random) -> None:
        sampled = re.fullmatch(r"sampled:([1-9][0-9]{0,8})", text)
        if text not in {"all", "failed", "off"} and sampled is None:
            raise ConfigError(
                f"{OTEL_PYTHON_PAPYRA_MESSAGES}={text!r} is not one of all, failed, off, sampled:N "
                f"(N a whole number from 1 up, for one in N)"
            )
        self.text = text
        self._share = 1 / int(sampled[1]) if sampled else float(text == "all")
        self._failed = text != "off"
        self._pick = pick

    def keeps(self, *, failed: bool) -> bool:
        """Say whether this message's fact is kept."""
        if failed:
            return self._failed
        return self._share == 1.0 or (self._share > 0.0 and self._pick() < self._share)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MessagePolicy) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"MessagePolicy({self.text!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a user can choose. Wrong values cannot exist: building one raises ConfigError.

    *log* is a log URL. *system* names the actor system where it has no id of its own, and overrides it
    where it has. *write* None leaves it to the log. *spill* is the absolute path of a folder, None means off. Intervals
    in seconds; *scan_interval_seconds* None means off. *exit_timeout_seconds* bounds how long a receiver that does not
    answer can delay the end of the process. *metrics_socket*: let ``papyra-otel metrics`` ask this process.
    """

    log: str = "file:papyra-facts"
    system: str | None = None
    startup: StartupMode = StartupMode.SCAN
    retention: Retention = field(default_factory=Retention)
    fsync: FsyncMode = FsyncMode.INTERVAL
    write: WriteMode | None = None
    spill: str | None = None
    messages: MessagePolicy = field(default_factory=MessagePolicy)
    payload: PayloadMode = PayloadMode.REDACTED
    forward: ForwardMode = ForwardMode.LIVE
    forward_messages: bool = False
    forward_payload: bool = False
    spans: SpanMode = SpanMode.SAMPLED
    group: Grouping = field(default_factory=Grouping)
    exit_timeout_seconds: float = 2.0
    metrics_socket: bool = False
    audit_interval_seconds: float = 60.0
    scan_interval_seconds: float | None = None
    service_name: str | None = None

    def __post_init__(self) -> None:
        if self.audit_interval_seconds <= 0:
            raise ConfigError(
                f"{OTEL_PYTHON_PAPYRA_AUDIT_INTERVAL} must be more than 0 s, not {self.audit_interval_seconds}"
            )
        if not 0 <= self.exit_timeout_seconds <= _EXIT_SECONDS_MAX:
            raise ConfigError(
                f"{OTEL_PYTHON_PAPYRA_EXIT_TIMEOUT} must be from 0 s to 1 h, not {self.exit_timeout_seconds}"
            )
        if self.scan_interval_seconds is not None and self.scan_interval_seconds <= 0:
            raise ConfigError(
                f"{OTEL_PYTHON_PAPYRA_SCAN_INTERVAL} must be more than 0 s or off, not {self.scan_interval_seconds}"
            )

    def __repr__(self) -> str:
        shown = {f.name: getattr(self, f.name) for f in fields(self)} | {"log": redact_url(self.log)}
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @classmethod
    def load(
        cls, overrides: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
    ) -> Settings:
        """Return the settings of *environ* (the process's by default), with *overrides* on top.

        *overrides* are named as the fields or, as text, as the environment variables without prefix
        (``log``, ``audit_interval``, ...); None means not given. Raises ConfigError naming what is wrong.
        """
        source = os.environ if environ is None else environ
        texts = {name: text for name, text in source.items() if name.startswith(_PREFIX) and text != ""}
        values = {_setting_of(name): text for name, text in texts.items()}
        values |= {
            _setting_of(_PREFIX + name.upper()): v for name, v in (overrides or {}).items() if v is not None
        }
        parsed = {_FIELDS[name]: _PARSERS[name](value) for name, value in values.items()}
        return cls(**parsed, service_name=_service_name(source))

    def handed_down(self) -> dict[str, str]:
        """Return what another process of the same application needs to record as this one: texts for ``load``.

        A relative file log is given its absolute place. What one process does for all (start-up checks, scans,
        retention) is left out. Credentials in *log* stay: the receiver needs them.
        """
        from papyra_otel.log.file.layout import root_of_url  # noqa: PLC0415 - only for runtimes of many processes

        log = self.log
        if log.startswith("file:"):
            log = Path(os.path.abspath(root_of_url(log))).as_uri()  # noqa: PTH100 - without following links
        texts = {
            "log": log,
            "system": self.system or self.service_name,
            "startup": StartupMode.IGNORE.value,
            "fsync": self.fsync.value,
            "write": None if self.write is None else self.write.value,
            "spill": self.spill,
            "messages": self.messages.text,
            "payload": self.payload.value,
            "forward": self.forward.value,
            "forward_messages": str(self.forward_messages),
            "forward_payload": str(self.forward_payload),
            "spans": self.spans.value,
            "group": self.group.text,
            "exit_timeout": f"{self.exit_timeout_seconds:f}",
            "metrics_socket": str(self.metrics_socket),
            "audit_interval": f"{self.audit_interval_seconds:f}",
            "scan_interval": "off",
        }
        return {name: text for name, text in texts.items() if text is not None}


def _setting_of(variable: str) -> str:
    name = variable.removeprefix(_PREFIX).lower().removesuffix("_seconds")
    if name not in _PARSERS:
        close = difflib.get_close_matches(name, _PARSERS, n=1)
        hint = f"; did you mean {_PREFIX}{close[0].upper()}?" if close else ""
        known = ", ".join(n.upper() for n in _PARSERS)
        raise ConfigError(f"{variable} is not a setting of papyra-otel{hint} (known: {known})")
    return name


def _mode(variable: str, kind: type[_MODE]) -> Callable[[Any], _MODE]:
    def parse(value: Any) -> _MODE:
        try:
            return kind(
                value.strip().lower() if isinstance(value, str) and not isinstance(value, Enum) else value
            )
        except ValueError:
            choices = ", ".join(str(member.value) for member in kind)
            raise ConfigError(f"{variable}={value!r} is not one of {choices}") from None

    return parse


def _flag(variable: str) -> Callable[[Any], bool]:
    def parse(value: Any) -> bool:
        if isinstance(value, bool):
            return value
        text = str(value).strip().lower()
        if text in {"true", "1", "on", "yes"}:
            return True
        if text in {"false", "0", "off", "no"}:
            return False
        raise ConfigError(f"{variable}={value!r} is not one of true, false")

    return parse


_UNIT_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _seconds(variable: str) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d|)\s*", str(value))
        if match is None:
            raise ConfigError(f"{variable}={value!r} is not a time in seconds, such as 30, 30s, 5m or 500ms")
        return float(match[1]) * _UNIT_SECONDS[match[2]]

    return parse


def _seconds_or_off(variable: str) -> Callable[[Any], float | None]:
    seconds = _seconds(variable)
    return lambda value: None if str(value).strip().lower() == "off" else seconds(value)


def _text(value: Any) -> str:
    return str(value).strip()


def _retention(value: Any) -> Retention:
    if isinstance(value, Retention):
        return value
    try:
        return parse_retention(str(value))
    except ConfigError as error:
        raise ConfigError(f"{OTEL_PYTHON_PAPYRA_RETENTION}: {error}") from None


def _messages(value: Any) -> MessagePolicy:
    return value if isinstance(value, MessagePolicy) else MessagePolicy(str(value).strip().lower())


def _group(value: Any) -> Grouping:
    return value if isinstance(value, Grouping) else Grouping(str(value))


def _spill(value: Any) -> str | None:
    from papyra_otel.log.file.spool import root_of_spool  # noqa: PLC0415 - takes a while to import

    text = str(value).strip()
    if text.lower() == "off":
        return None
    try:
        return os.path.abspath(root_of_spool(text))  # noqa: PTH100 - a path as the kernel takes it
    except ConfigError as error:
        raise ConfigError(f"{OTEL_PYTHON_PAPYRA_SPILL}: {error}") from None


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "log": _text,
    "system": _text,
    "startup": _mode(OTEL_PYTHON_PAPYRA_STARTUP, StartupMode),
    "retention": _retention,
    "fsync": _mode(OTEL_PYTHON_PAPYRA_FSYNC, FsyncMode),
    "write": _mode(OTEL_PYTHON_PAPYRA_WRITE, WriteMode),
    "spill": _spill,
    "messages": _messages,
    "payload": _mode(OTEL_PYTHON_PAPYRA_PAYLOAD, PayloadMode),
    "forward": _mode(OTEL_PYTHON_PAPYRA_FORWARD, ForwardMode),
    "forward_messages": _flag(OTEL_PYTHON_PAPYRA_FORWARD_MESSAGES),
    "forward_payload": _flag(OTEL_PYTHON_PAPYRA_FORWARD_PAYLOAD),
    "spans": _mode(OTEL_PYTHON_PAPYRA_SPANS, SpanMode),
    "group": _group,
    "exit_timeout": _seconds(OTEL_PYTHON_PAPYRA_EXIT_TIMEOUT),
    "metrics_socket": _flag(OTEL_PYTHON_PAPYRA_METRICS_SOCKET),
    "audit_interval": _seconds(OTEL_PYTHON_PAPYRA_AUDIT_INTERVAL),
    "scan_interval": _seconds_or_off(OTEL_PYTHON_PAPYRA_SCAN_INTERVAL),
}
_FIELDS = {name: f"{name}_seconds" if name.endswith(("_interval", "_timeout")) else name for name in _PARSERS}


def otlp_protocols(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return over which OTLP protocol ``logs`` and ``metrics`` are to be exported, as *environ* tells an SDK.

    A signal is there if an endpoint is named, for it or for all, its exporter is not another one (or ``none``), and
    the SDK is not disabled: without an endpoint nobody has asked a command for telemetry.
    """
    source = os.environ if environ is None else environ

    def read(name: str) -> str:
        return source.get(name, "").strip()

    if read("OTEL_SDK_DISABLED").lower() == "true":
        return {}
    found: dict[str, str] = {}
    for signal in ("logs", "metrics"):
        own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_"
        named = read(f"{own}ENDPOINT") or read("OTEL_EXPORTER_OTLP_ENDPOINT")
        exporters = [each.strip() for each in (read(f"OTEL_{signal.upper()}_EXPORTER") or "otlp").split(",")]
        protocol = read(f"{own}PROTOCOL") or read("OTEL_EXPORTER_OTLP_PROTOCOL") or "grpc"
        for exporter, fixed in (
            ("otlp", protocol),
            ("otlp_proto_grpc", "grpc"),
            ("otlp_proto_http", "http/protobuf"),
        ):
            if named and exporter in exporters:
                found.setdefault(signal, fixed)
    return found


def resource_attributes(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the OTel resource attributes that *environ* (the process's by default) gives, as the SDK reads them."""
    source = os.environ if environ is None else environ
    found: dict[str, str] = {}
    for pair in source.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        key, equals, value = pair.partition("=")
        if key.strip() and equals:
            found[key.strip()] = unquote(value.strip())
    if name := source.get("OTEL_SERVICE_NAME", "").strip():
        found["service.name"] = name
    return found


def _service_name(environ: Mapping[str, str]) -> str | None:
    """Return ``service.name`` as the OTel SDK would read it from the environment, or None."""
    return resource_attributes(environ).get("service.name") or None
