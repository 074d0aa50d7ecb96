"""A private UNIX socket beside a file log: whoever may read the log may ask this process for its metrics.

    <root>/.metrics/<pid>-<random>.sock      0600, in a folder 0700

Who connects is sent one JSON object and nothing is read from them. Only this user and root are answered, where the
system tells who it is. The socket gets its name when it listens, so one that refuses was left behind by a killed
process: the next one that starts removes it.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from papyra_otel.log.file.layout import root_of_url
from papyra_otel.log.times import format_time
from papyra_otel.pipeline.guard import Guard
from papyra_otel.pipeline.metrics import Source
from papyra_otel.pipeline.readings import readings

__all__ = ["FOLDER", "Hatch", "ask", "opened_hatch", "sockets"]

FOLDER: Final = ".metrics"
_SUFFIX = ".sock"
_SECONDS = 2.0
_ANSWER_BYTES_MAX = 16 << 20
_PATH_BYTES_MAX = 100  # what every system takes
_CREDENTIALS = struct.Struct("3i")


class Hatch:
    """Answers in a daemon thread, one at a time; *tell* returns what. Raises OSError when it cannot be opened."""

    def __init__(self, root: str | Path, tell: Callable[[], dict[str, Any]], guard: Guard) -> None:
        self._folder = Path(root, FOLDER)
        self._tell = tell
        self._guard = guard
        self._open()

    def _open(self) -> None:
        self._folder.mkdir(0o700, exist_ok=True)
        _remove_leftovers(self._folder)
        self._name: str = f"{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _reachable(self._folder) as folder:
                self._socket.bind(f"{folder}/{self._name}.tmp")
            path = self._folder / f"{self._name}.tmp"
            path.chmod(0o600)
            self._socket.listen(4)
            path.rename(self._folder / self._name)
        except BaseException:
            self._socket.close()
            raise
        self._thread = threading.Thread(
            target=self._serve, args=(self._socket,), name="papyra-otel-metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Take no more questions. Never raises."""
        with suppress(OSError):
            (self._folder / self._name).unlink()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def after_fork_in_child(self) -> None:
        """Open one of its own; that of the parent stays. Without, if that fails. Never raises."""
        with self._guard("metrics.fork"):
            self._socket.close()  # the parent's goes on listening
            self._open()

    def _serve(self, listening: socket.socket) -> None:
        while True:
            try:
                asking, _ = listening.accept()
            except OSError:  # closed
                return
            with asking, self._guard("metrics.socket"):
                asking.settimeout(_SECONDS)
                if _may_ask(asking):
                    with suppress(OSError):  # gone again
                        asking.sendall(json.dumps(self._tell()).encode())


def opened_hatch(
    url: str, system: str, source: Source, guard: Guard, told: Callable[[str], None]
) -> Hatch | None:
    """Let ``papyra-otel metrics`` ask this process about *source*. Where that is not possible *told* is given why."""
    if source.backend != "file":
        told(
            f"metrics_socket: the {source.backend} log has no folder for one; metrics go to your provider only."
        )
        return None
    started = format_time(time.time_ns())

    def tell() -> dict[str, Any]:
        return {"pid": os.getpid(), "system": system, "started": started, "metrics": readings(source)}

    try:
        return Hatch(root_of_url(url), tell, guard)
    except OSError as error:
        told(f"metrics_socket: {error.strerror or error}; metrics go to your provider only.")
        return None


def sockets(root: str | Path) -> list[str]:
    """Return the names of the sockets of a log's processes, those of killed ones included."""
    try:
        return sorted(each.name for each in Path(root, FOLDER).iterdir() if each.name.endswith(_SUFFIX))
    except (FileNotFoundError, NotADirectoryError):
        return []


def ask(root: str | Path, name: str) -> dict[str, Any] | None:
    """Return what the process behind a socket tells; None if it is gone. Raises PermissionError."""
    try:
        with (
            _reachable(Path(root, FOLDER)) as folder,
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking,
        ):
            asking.settimeout(_SECONDS)
            asking.connect(f"{folder}/{name}")
            answer = b""
            while (more := asking.recv(1 << 16)) and len(answer) < _ANSWER_BYTES_MAX:
                answer += more
        told: dict[str, Any] | None = json.loads(answer) if answer else None
    except PermissionError:
        raise
    except (OSError, ValueError):
        return None
    return told


def _remove_leftovers(folder: Path) -> None:
    for path in list(folder.iterdir()):
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(_SECONDS)
            try:
                with _reachable(folder) as short:
                    asking.connect(f"{short}/{path.name}")
            except ConnectionRefusedError:
                if path.name.endswith(_SUFFIX):
                    path.unlink()


@contextmanager
def _reachable(folder: Path) -> Generator[str]:
    """Yield a path of *folder* that is short enough for a socket's address."""
    if (
        len(os.fsencode(folder)) <= _PATH_BYTES_MAX - len("4194304-00000000.sock.tmp")
        or sys.platform != "linux"
    ):
        yield str(folder)
        return
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _may_ask(asking: socket.socket) -> bool:
    """Say whether root or this user asks. Where the system does not tell, the folder's permissions have decided."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True
    _, user, _ = _CREDENTIALS.unpack(asking.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size))
    return user in {0, os.geteuid()}
