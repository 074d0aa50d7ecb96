"""Where output goes. Lines are laid out here, as they come, however long the log is; rich gives the colours.

Without rich, on a pipe, with ``NO_COLOR`` or on a dumb terminal the very same lines have no colours. Output
is fitted to the terminal (or to ``COLUMNS``); a pipe or file gets lines as long as they need to be, uncut.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TextIO

from papyra_otel.cli.text import cut, neutral, paragraph, width, wrap

__all__ = ["Cell", "Column", "Row", "Screen", "Table"]

_WIDTH_MIN = 40
_WIDTH_UNKNOWN = 80
_WIDE = 100
_ROWS_MEASURED = 200
_LINES_MAX = 3
_PROSE_MIN = 20
_ERASE_TO_END = "\x1b[K"


@dataclass(frozen=True, slots=True)
class Cell:
    """Text and its style, in rich's words (``bold red``). The text is neutralised when it is shown."""

    text: str
    style: str = ""


Row = Sequence[Cell]


@dataclass(frozen=True, slots=True)
class Column:
    """A column. *share* is how much of the width it may take at most; the last column takes what is left."""

    title: str
    share: float = 1.0
    right: bool = False


class Screen:
    """Standard output for results, standard error for remarks about them."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._out = out
        self._err = err
        self.is_terminal: bool = out.isatty()
        self.shows_progress: bool = err.isatty() and os.environ.get("TERM") != "dumb"
        self.width: int | None = _width(out)
        self._paint = _painter(out)
        self._paint_remark = _painter(err)

    @property
    def is_wide(self) -> bool:
        """True when there is room for detail."""
        return self.width is None or self.width >= _WIDE

    def line(self, *cells: Cell, indent: int = 0) -> None:
        """Print *cells*, one after the other, in one line. Nothing is cut."""
        self._write(" " * indent + "".join(self.painted(neutral(cell.text), cell.style) for cell in cells))

    def prose(self, text: str, style: str = "", *, start: Sequence[Cell] = (), indent: int = 0) -> None:
        """Print *text* beside *start*, or below it where that is longer than *indent*; broken at spaces, never cut."""
        text = neutral(text)
        lines = [text] if self.width is None else paragraph(text, max(self.width - indent, _PROSE_MIN))
        taken = sum(width(neutral(cell.text)) for cell in start)
        before = "".join(self.painted(neutral(cell.text), cell.style) for cell in start)
        if taken > indent:
            self._write(before.rstrip())
            before, taken = "", 0
        for line in lines:
            self._write(f"{before}{' ' * (indent - taken)}{self.painted(line, style)}")
            before, taken = "", 0

    def raw(self, text: str) -> None:
        """Print a line that is known to be harmless."""
        self._write(text)

    def remark(self, text: str) -> None:
        """Say *text* beside the results, on standard error, after what was printed so far."""
        self.flush()
        self._err.write(self._paint_remark(_encodable(neutral(text), self._err), "dim") + "\n")
        self._err.flush()

    def passing(self, *parts: str) -> None:
        """Show in the terminal's last line as many of *parts* as fit, instead of what passed before; none erases it."""
        room = _columns(self._err) - 1  # a full line would scroll
        shown = ""
        for part in parts:
            longer = f"{shown}  {_encodable(part, self._err)}" if shown else _encodable(part, self._err)
            if width(longer) > room:
                break
            shown = longer
        self._err.write(f"\r{shown}{_ERASE_TO_END}")
        self._err.flush()

    def error(self, text: str) -> None:
        """Say in one line what went wrong."""
        start = self._paint_remark("papyra-otel: error:", "bold red")
        self._err.write(f"{start} {_encodable(neutral(text), self._err)}\n")
        self._err.flush()

    def flush(self) -> None:
        """Hand on what was printed so far."""
        self._out.flush()

    def painted(self, text: str, style: str) -> str:
        """Return *text* with the codes of *style* around it, if there are colours here."""
        return self._paint(text, style) if style else text

    def _write(self, text: str) -> None:
        self._out.write(_encodable(text, self._out) + "\n")


class Table:
    """Rows under a heading, printed as they come: widths follow the first rows and only ever grow.

    A *rule* is a line across, of its own. With *wraps* the last column goes on in up to three lines.
    """

    def __init__(self, screen: Screen, columns: Sequence[Column], *, wraps: bool = False) -> None:
        self._screen = screen
        self._columns = columns
        self._widths = [width(column.title) for column in columns]
        self._gap = "  " if screen.is_wide else " "
        self._lines_max = _LINES_MAX if wraps else 1
        self._began = False

    def print(self, rows: Iterable[Row | str]) -> int:
        """Print *rows*; a text instead of a row is a rule with that title. Return how many rows there were."""
        printed = 0
        remaining = iter(rows)
        while batch := list(islice(remaining, _ROWS_MEASURED)):
            cleaned = [row if isinstance(row, str) else [neutral(cell.text) for cell in row] for row in batch]
            self._measure([texts for texts in cleaned if not isinstance(texts, str)])
            if not self._began:
                self._began = True
                self._print_row([column.title for column in self._columns], ["bold"] * len(self._columns))
            for row, texts in zip(batch, cleaned, strict=True):
                if isinstance(row, str) or isinstance(texts, str):
                    self._print_rule(str(texts))
                else:
                    self._print_row(texts, [cell.style for cell in row])
                    printed += 1
        return printed

    def _measure(self, rows: Iterable[Sequence[str]]) -> None:
        available = self._screen.width
        for index, column in enumerate(self._columns):
            natural = max(chain([self._widths[index]], (width(row[index]) for row in rows)))
            most = natural if available is None else int(available * column.share)
            self._widths[index] = max(self._widths[index], min(natural, most))

    def _print_row(self, texts: Sequence[str], styles: Sequence[str]) -> None:
        *firsts, last = texts
        cells: list[str] = []
        for index, text in enumerate(firsts):
            cells.append(self._padded(index, text, styles[index]))
        indent = sum(self._widths[:-1]) + len(self._gap) * len(firsts)
        for number, line in enumerate(self._lines_of(last, indent)):
            before = self._gap.join([*cells, ""]) if number == 0 else " " * indent
            painted = self._screen.painted(line, styles[-1])
            pad = self._widths[-1] - width(line) if self._columns[-1].right else 0
            self._screen.raw((before + " " * pad + painted).rstrip())

    def _padded(self, index: int, text: str, style: str) -> str:
        text = text if self._screen.width is None else cut(text, self._widths[index])
        pad = " " * (self._widths[index] - width(text))
        painted = self._screen.painted(text, style)
        return pad + painted if self._columns[index].right else painted + pad

    def _lines_of(self, text: str, indent: int) -> list[str]:
        if self._screen.width is None:
            return [text]
        return wrap(text, max(self._screen.width - indent, 12), self._lines_max)

    def _print_rule(self, title: str) -> None:
        start = f"── {title} "
        columns = self._screen.width or width(start) + 2
        self._screen.raw(self._screen.painted(start + "─" * max(columns - width(start), 2), "dim"))


def _width(out: TextIO) -> int | None:
    if not out.isatty() and not os.environ.get("COLUMNS", "").isdecimal():
        return None
    return max(shutil.get_terminal_size().columns, _WIDTH_MIN)


def _columns(stream: TextIO) -> int:
    """Return the columns of the terminal *stream* is, now: it may have been resized, and the other one be a file."""
    if os.environ.get("COLUMNS", "").isdecimal():
        return max(int(os.environ["COLUMNS"]), _WIDTH_MIN)
    try:
        return os.get_terminal_size(stream.fileno()).columns or _WIDTH_UNKNOWN
    except (OSError, ValueError):
        return _WIDTH_UNKNOWN


def _encodable(text: str, stream: TextIO) -> str:
    """Return *text* with what *stream* cannot show (a terminal that is not UTF-8) written as escapes."""
    encoding = stream.encoding or "utf-8"
    if text.isascii() or encoding.lower() in {"utf-8", "utf8"}:
        return text
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _painter(stream: TextIO) -> Callable[[str, str], str]:
    """Return what colours text for *stream*: nothing where there are no colours, or no rich."""
    try:
        from rich.color import ColorSystem  # noqa: PLC0415 - optional, and only wanted here
        from rich.console import Console  # noqa: PLC0415
        from rich.style import Style  # noqa: PLC0415
    except ImportError:
        return lambda text, _: text
    console = Console(file=stream)
    if console.color_system is None or console.no_color:
        return lambda text, _: text
    # sixteen colours, whatever more there is: they are the ones of the operator's own palette
    return lambda text, style: Style.parse(style).render(text, color_system=ColorSystem.STANDARD)
