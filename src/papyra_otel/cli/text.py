r"""Text that is fit for a terminal. Facts hold what actors were sent, so nothing in them is trusted.

Control characters, terminal escape sequences, text direction overrides and the like are shown as escapes
(``\x1b``): a payload must not be able to move the cursor, recolour or retitle the operator's terminal.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

__all__ = ["cut", "duration", "json_line", "neutral", "paragraph", "size", "size_exact", "width", "wrap"]

_NOT_PLAIN = re.compile(r"[^\x20-\x7e]")
_MS, _US = 1e-3, 1e-6
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def neutral(text: str) -> str:
    """Return *text* with everything that is no visible character or plain space written as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(c: str) -> str:
    return c.encode("unicode_escape").decode("ascii")


def json_line(value: Any) -> str:
    r"""Return *value* as one line of JSON; what a terminal could obey is an escape, the same to a parser."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if text.isprintable():
        return text
    return _NOT_PLAIN.sub(
        lambda found: found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1], text
    )


# --- widths, counted in columns of a terminal ---------------------------------------------------------


def width(text: str) -> int:
    """Return how many columns *text* takes: East Asian wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def _columns(c: str) -> int:
    if unicodedata.combining(c):
        return 0
    return 2 if unicodedata.east_asian_width(c) in "WF" else 1


def cut(text: str, columns: int) -> str:
    """Return *text* if it fits into *columns* (from 1 up), else its beginning and ``…``."""
    return text if width(text) <= columns else _beginning(text, columns - 1).rstrip() + "…"


def _beginning(text: str, columns: int) -> str:
    taken = 0
    for index, c in enumerate(text):
        taken += _columns(c)
        if taken > columns:
            return text[:index]
    return text


def wrap(text: str, columns: int, lines_max: int) -> list[str]:
    """Break *text* at spaces into at most *lines_max* lines of *columns*; what is left over is cut with ``…``."""
    lines: list[str] = []
    while len(lines) < lines_max - 1 and width(text) > columns:
        head = _beginning(text, columns)
        at_space = len(head) if text[len(head)] == " " else head.rfind(" ")
        end = at_space if at_space > len(head) // 4 else len(head) or 1
        lines.append(text[:end].rstrip())
        text = text[end:].lstrip()
    return [*lines, cut(text, columns)]


def paragraph(text: str, columns: int) -> list[str]:
    """Break *text* at spaces into lines of *columns*. A longer word, such as a path, stays whole in its own line."""
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if line and width(longer) > columns:
            lines.append(line)
            longer = word
        line = longer
    return [*lines, line]


# --- quantities ---------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """Return *seconds* for people: ``3.7µs``, ``12ms``, ``1.5s``, ``2.5min``, ``3h``, ``7d``."""
    for below, unit, name in ((_MS, _US, "µs"), (1, _MS, "ms"), (_MINUTE, 1, "s"), (_HOUR, _MINUTE, "min")):
        if abs(seconds) < below * 0.9995:
            return f"{seconds / unit:.3g}{name}"
    return f"{seconds / _HOUR:.3g}h" if abs(seconds) < 2 * _DAY else f"{round(seconds / _DAY, 1):,g}d"


def size(size_bytes: int) -> str:
    """Return a size for people: ``812 B``, ``6.2 KiB``, ``1.4 GiB``."""
    number = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:  # noqa: PLR2004 - what the units mean
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} TiB"


def size_exact(size_bytes: int) -> str:
    """Return the exact number of bytes, in groups of three digits."""
    return f"{size_bytes:,}"
