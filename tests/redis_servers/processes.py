"""Server processes that cannot outlive the tests, however those end."""

from __future__ import annotations

import atexit
import shutil
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from secrets import randbelow
from weakref import WeakSet

BUS_OFFSET = 10_000
"""A cluster node's bus port is this much above its port; Redis 6.2 has no setting for it."""

_PORTS = range(11_000, 22_000)
"""Below the ports the system gives to outgoing connections, also with ``BUS_OFFSET`` added."""

_running: WeakSet[subprocess.Popen[bytes]] = WeakSet()
# A child told to die with its parent dies with the *thread* that made it: so one thread, which lives as long
# as this process, makes them all.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="redis-servers")


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on, nor on its bus port."""
    for _ in range(200):
        port = _PORTS[randbelow(len(_PORTS))]
        if _is_free(port) and _is_free(port + BUS_OFFSET):
            return port
    raise RuntimeError("found no free port in 200 tries")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def spawn(command: list[str], *, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start *command* in *folder*, in a group of its own, appending what it prints to *log*."""
    setpriv = shutil.which("setpriv")  # Linux only; elsewhere the exit handler below has to do
    leash = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                [*leash, *command],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    process = _spawner.submit(start).result()
    _running.add(process)
    return process


def kill(process: subprocess.Popen[bytes]) -> None:
    """End *process* at once, paused or not, and wait until the kernel has."""
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
        process.wait()
    _running.discard(process)


def running() -> list[int]:
    """Return the process ids of the servers that run now."""
    return [process.pid for process in list(_running) if process.poll() is None]


@atexit.register
def _kill_all() -> None:
    for process in list(_running):
        kill(process)
