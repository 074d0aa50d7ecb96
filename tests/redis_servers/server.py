"""One real Redis or Valkey server, in a folder of its own, that a test may stop, pause, kill and damage."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from redis_servers import processes
from redis_servers.aof import AofFiles
from redis_servers.certificates import Certificates
from redis_servers.flavours import Flavour
from redis_servers.waiting import PATIENCE_SECONDS

Option = str | int | bool | Sequence[str]
"""The value of a setting; several strings make several lines, as ``user`` and ``save`` need."""

_DEFAULTS: Mapping[str, Option] = {
    "bind": "127.0.0.1",
    "save": "",
    "appendonly": False,
    "daemonize": False,
    "protected-mode": False,
    "repl-diskless-sync-delay": 0,
    "repl-ping-replica-period": 1,
    "loglevel": "notice",
}


class ServerFailed(Exception):
    """A server ended, or never answered; carries the end of its log."""

    def __init__(self, what: str, log: str) -> None:
        super().__init__(f"{what}; its log ends:\n{log[-3000:]}")
        self.log = log


class Server:
    """A server on 127.0.0.1, running from construction until ``close``, which leaves nothing behind.

    *options* are settings of redis.conf by their names there. *username* and *password* are what ``client``
    and ``url`` log in with; a *password* alone also becomes ``requirepass``. *unix* adds a Unix socket,
    which ``url`` and, unless given a port, ``client`` then use. With *tls* the server speaks nothing else on its port.
    """

    def __init__(
        self,
        flavour: Flavour = Flavour.VALKEY,
        options: Mapping[str, Option] | None = None,
        *,
        username: str | None = None,
        password: str | None = None,
        unix: bool = False,
        tls: Certificates | None = None,
        mutual_tls: bool = False,
        arguments: Sequence[str] = (),
    ) -> None:
        program = flavour.program()
        if program is None:
            raise FileNotFoundError(flavour.remedy)
        self.flavour = flavour
        self.host = "127.0.0.1"
        self.username, self.password = username, password
        self.tls, self.mutual_tls = tls, mutual_tls
        self.dir = Path(tempfile.mkdtemp(prefix="papyra-redis-"))
        self.unix_path = self.dir / "server.sock" if unix else None
        self.log_path = self.dir / "server.log"
        self.aof = AofFiles(self.dir)
        self._command = [str(program), str(self.dir / "server.conf"), *arguments]
        self._clients = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._start_on_a_free_port(options or {})

    def _start_on_a_free_port(self, options: Mapping[str, Option]) -> None:
        """Start; again on another port when somebody else's server got there first."""
        for tries_left in (2, 1, 0):
            self.port = processes.free_port()
            self._write_settings(self._own_settings() | dict(options), mode="w")
            try:
                self.start()
            except ServerFailed as failure:
                if tries_left and "Address already in use" in failure.log:
                    self.log_path.unlink()
                    continue
                self.close()
                raise
            return

    def _own_settings(self) -> dict[str, Option]:
        settings: dict[str, Option] = {**_DEFAULTS, "port": self.port, "dir": str(self.dir)}
        if self.flavour is not Flavour.OLDEST:  # there DEBUG is always allowed, and this setting unknown
            settings["enable-debug-command"] = "local"
        if self.password and not self.username:
            settings |= {"requirepass": self.password, "masterauth": self.password}
        if self.unix_path:
            settings |= {"unixsocket": str(self.unix_path), "unixsocketperm": "700"}
        if self.tls:
            settings |= {"port": 0, "tls-port": self.port, "tls-replication": True}
            settings |= self.tls.server_settings(mutual=self.mutual_tls)
        return settings

    def _write_settings(self, settings: Mapping[str, Option], *, mode: str) -> None:
        with Path(self._command[1]).open(mode, encoding="utf-8") as file:
            for name, value in settings.items():
                values = [value] if isinstance(value, str | int) else value
                file.writelines(f"{name} {_as_written(each)}\n" for each in values)

    # What runs

    def start(self, options: Mapping[str, Option] | None = None) -> None:
        """Start the stopped server with its settings and *options* on top, and wait until it answers."""
        if options:
            self._write_settings(options, mode="a")
        self._process = processes.spawn(self._command, folder=self.dir, log=self.log_path)
        self.wait_until_it_answers()

    def wait_until_it_answers(self, *, seconds: float = PATIENCE_SECONDS) -> None:
        """Return when PING is answered, after loading; raise ServerFailed when the server ends or *seconds* do."""
        deadline = time.monotonic() + seconds
        any_name = {"ssl_check_hostname": False} if self.tls else {}
        with self.new_client(port=self.port, socket_timeout=1, **any_name) as client:
            while True:
                with suppress(redis.ConnectionError, redis.TimeoutError):  # not yet there, or still loading
                    client.ping()
                    return
                self._wait_a_moment(deadline)

    def _wait_a_moment(self, deadline: float) -> None:
        """Wait a little for the process to end, which it should not."""
        assert self._process
        with suppress(subprocess.TimeoutExpired):
            status = self._process.wait(0.01)
            raise ServerFailed(f"{self} ended with status {status}", self.log)
        if time.monotonic() > deadline:
            raise ServerFailed(f"{self} does not answer", self.log)

    def stop(self) -> None:
        """Stop as an operator does (SIGTERM), so that everything is flushed; kill what does not obey."""
        if self._process and self.is_running:
            self.resume()
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End at once (SIGKILL), as a crash does; what was not written to files is lost."""
        if self._process:
            processes.kill(self._process)

    def pause(self) -> None:
        """Freeze the process (SIGSTOP): the kernel still accepts connections, nobody answers."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on (SIGCONT)."""
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def restart(self, options: Mapping[str, Option] | None = None) -> None:
        """Stop, then start in the same folder on the same port, with *options* on top of the settings."""
        self.stop()
        self.start(options)

    def close(self) -> None:
        """End the server and remove its folder; a second time does nothing."""
        self._clients.close()
        self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    @property
    def is_running(self) -> bool:
        """Say whether the process exists, paused or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The id of the process, running or the last that did."""
        assert self._process
        return self._process.pid

    @property
    def log(self) -> str:
        """What the server printed so far, over all its starts."""
        return self.log_path.read_text("utf-8", "replace") if self.log_path.exists() else ""

    # How to reach it

    @property
    def url(self) -> str:
        """The address as ``redis.Redis.from_url`` takes it; for TLS the files have to be given beside it."""
        login = ""
        if self.password is not None:
            login = f"{quote(self.username or '', safe='')}:{quote(self.password, safe='')}@"
        if self.unix_path:
            return f"unix://{login}{self.unix_path}"
        scheme = "rediss" if self.tls else "redis"
        return f"{scheme}://{login}{self.host}:{self.port}/0"

    def new_client(self, **settings: Any) -> redis.Redis:
        """Return a client that does not try twice; its maker closes it."""
        settings = {"socket_timeout": 10, "socket_connect_timeout": 5, **settings}
        settings.setdefault("retry", Retry(NoBackoff(), 0))
        settings.setdefault("username", self.username)
        settings.setdefault("password", self.password)
        if self.unix_path and "port" not in settings:
            return redis.Redis(unix_socket_path=str(self.unix_path), **settings)
        if self.tls:
            settings = {**self.tls.client_settings(mutual=self.mutual_tls), **settings}
        return redis.Redis(**{"host": self.host, "port": self.port, **settings})

    def client(self, **settings: Any) -> redis.Redis:
        """Return a client that is closed with the server; *settings* go to ``redis.Redis`` (port= for a proxy)."""
        made = self._clients.enter_context(self.new_client(**settings))
        self._clients.callback(made.connection_pool.disconnect)  # redis-py 5.0 leaves that to others
        return made

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.flavour.value} on port {self.port})"


def _as_written(value: str | int) -> str:
    """Return *value* as redis.conf wants it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) or '""'
