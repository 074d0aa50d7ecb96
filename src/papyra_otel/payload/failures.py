"""Exceptions as bounded text, their secrets masked."""

from __future__ import annotations

import linecache
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

from papyra_otel.payload.fitting import (
    payload_text,
)
from papyra_otel.payload.reading import (
    Walker,
    more_marker,
)
from papyra_otel.payload.types import (
    DECIMAL_BITS_MAX,
    TRUNCATED,
    UNREADABLE,
    any_dict,
    declared_in,
    failure_text,
    instance_dict,
    is_exactly,
    is_kind,
    stored_in,
    type_name,
    type_of,
)

__all__ = [
    "describe_exception",
    "error_text",
]

_MESSAGE_BYTES_MAX = 1024
_STACKTRACE_BYTES_MAX = 8192
_LINKS_MAX = 6  # an exception and its causes
_FRAMES_MAX = 30
_NOTES_MAX = 5
_LINE_CHARS_MAX = 240
_cause_of: Callable[[Any], BaseException | None] = BaseException.__dict__["__cause__"].__get__
_context_of: Callable[[Any], BaseException | None] = BaseException.__dict__["__context__"].__get__
_context_hidden_of: Callable[[Any], bool] = BaseException.__dict__["__suppress_context__"].__get__
_traceback_of: Callable[[Any], TracebackType | None] = BaseException.__dict__["__traceback__"].__get__
_args_of: Callable[[Any], tuple[Any, ...]] = BaseException.__dict__["args"].__get__
_CAUSED = "The above exception was the direct cause of the following exception:"
_DURING = "During handling of the above exception, another exception occurred:"


def describe_exception(error: BaseException) -> tuple[str, str, str]:
    """Return the qualified type name, the message (up to 1 KiB) and the stack trace (up to 8 KiB) of *error*.

    Secrets are masked and bytes counted in UTF-8. The stack trace ends with the innermost frames of *error*, as
    Python prints it, causes first (six at most, each with an equal share); what was cut is said. Values of local
    variables are never looked at. Never raises.
    """
    return _attempt(_error_name, error), _attempt(_error_message, error), _attempt(_stacktrace, error)


def _attempt(describe: Callable[[Any], str], error: BaseException) -> str:
    try:
        return describe(error)
    except Exception:  # no stack left, or not an exception at all
        return UNREADABLE


def _error_name(error: BaseException) -> str:
    return type_name(type(error))


def _error_message(error: BaseException) -> str:
    return _cut_end(_redacted_short(error_text(error, "redacted"), _MESSAGE_BYTES_MAX), _MESSAGE_BYTES_MAX)


def error_text(error: Any, mode: str) -> str:
    """Return ``str(error)`` where that is cheap, guarded; bounded JSON of large arguments."""
    cls = type_of(error)
    try:
        args = _args_of(error)
        if declared_in(cls, "__str__") is BaseException.__str__ and any(map(_is_bulky, args[:10])):
            return str(payload_text(args[0] if len(args) == 1 else args, mode=mode, limit_bytes=4096))
        return str(error)
    except Exception as failure:
        return failure_text(cls, "str", failure)


def _is_bulky(arg: Any) -> bool:
    cls = type_of(arg)
    return (
        is_kind(cls, (dict, list, tuple, set, frozenset, deque, bytearray, bytes, int))
        and cls is not bool
        and not (is_kind(cls, int) and int.bit_length(arg) <= DECIMAL_BITS_MAX)
    )


def _redacted_short(text: str, chars: int) -> str:
    walker = Walker(redact=True, depth_max=1, items_max=1, nodes_max=1, text_max=chars, chars_max=chars)
    return walker.text(text)


def _cut_end(text: str, limit_bytes: int) -> str:
    encoded = text.encode()
    if len(encoded) <= limit_bytes:
        return text
    return encoded[: limit_bytes - len(TRUNCATED.encode())].decode(errors="ignore") + TRUNCATED


def _stacktrace(error: BaseException) -> str:
    links = _links(error)
    share = _STACKTRACE_BYTES_MAX // len(links) - 8
    return "\n\n".join(_cut_front(_link_lines(link, reason), share) for link, reason in reversed(links))


def _links(error: BaseException) -> list[tuple[BaseException, str]]:
    """Return *error* and what it came from, with the sentence that ties each one to the one it came from."""
    links: list[tuple[BaseException, str]] = []
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen and len(links) < _LINKS_MAX:
        seen.add(id(link))
        cause = _cause_of(link)
        origin = cause if cause is not None or _context_hidden_of(link) else _context_of(link)
        reason = "" if origin is None else _CAUSED if cause is not None else _DURING
        links.append((link, reason))
        link = origin
    if link is not None:
        last, _ = links[-1]
        links[-1] = (last, f"…(earlier causes cut)\n{links[-1][1]}")
    return links


def _link_lines(error: BaseException, reason: str) -> list[str]:
    lines = [reason, ""] if reason else []
    traceback = _traceback_of(error)
    if traceback is not None:
        lines += ["Traceback (most recent call last):", *_frame_lines(traceback)]
    message = _redacted_short(error_text(error, "redacted"), _MESSAGE_BYTES_MAX)
    name = type_name(type(error))
    return [*lines, *(f"{name}: {message}" if message else name).split("\n"), *_note_lines(error)]


def _note_lines(error: BaseException) -> list[str]:
    notes: Any = any_dict.get(instance_dict(error, type(error)), "__notes__")
    texts = [note for note in notes[:_NOTES_MAX] if is_exactly(note, str)] if is_exactly(notes, list) else []
    parts: Any = stored_in(error, type(error), "exceptions")
    grouped: list[Any] = list(parts[:_NOTES_MAX]) if is_exactly(parts, tuple) else []
    inner = [f"  + {type_name(type_of(part))}: {error_text(part, 'redacted')}" for part in grouped]
    return [_redacted_short(text, _LINE_CHARS_MAX) for text in (*texts, *inner)]


def _frame_lines(traceback: TracebackType) -> list[str]:
    """Return the lines of the innermost frames, and before them how many there were more."""
    kept: deque[TracebackType] = deque(maxlen=_FRAMES_MAX)
    total = 0
    frame: TracebackType | None = traceback
    while frame is not None:
        kept.append(frame)
        total += 1
        frame = frame.tb_next
    cut = [f"  …(+{total - len(kept)} frames)"] if total > len(kept) else []
    return cut + [line for entry in kept for line in _frame_text(entry)]


def _frame_text(entry: TracebackType) -> list[str]:
    code = entry.tb_frame.f_code
    line = f'  File "{code.co_filename}", line {entry.tb_lineno}, in {code.co_name}'
    source = _source_line(code.co_filename, entry.tb_lineno or 0)
    return [
        _redacted_short(text, _LINE_CHARS_MAX) for text in ((line, f"    {source}") if source else (line,))
    ]


def _source_line(file: str, number: int) -> str:
    """Return the line of a Python file, or nothing: whatever else a code object may name is not opened."""
    try:
        return linecache.getline(file, number).strip() if file.endswith(".py") else ""
    except Exception:
        return ""


def _cut_front(lines: list[str], limit_bytes: int) -> str:
    """Return the last of *lines* that fit, headed by how many did not."""
    used = len(more_marker(len(lines)).encode()) + len(" lines")
    for kept, line in enumerate(reversed(lines)):
        used += len(line.encode()) + 1
        if used > limit_bytes:
            tail = [f"…(+{len(lines) - kept} lines)", *lines[len(lines) - kept :]]
            return _cut_end("\n".join(tail), limit_bytes)
    return "\n".join(lines)
