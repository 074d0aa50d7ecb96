"""A bad network on loopback: a TCP proxy that is slow, silent, deaf or gone as a test asks.

What it does to bytes, it does in one thread with one event loop, however many connections there are.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from redis_servers.processes import free_port

_SLICE_BYTES = 16 * 1024
_QUEUED_SLICES = 64  # what may be on its way in one direction: then the sender feels it, as with TCP


@dataclass(slots=True)
class Way:
    """What happens to the bytes of one direction."""

    latency_seconds: float = 0.0
    bytes_per_second: float | None = None
    held: bool = False
    swallowed: bool = False
    bytes_left: int | None = None


@dataclass(eq=False, slots=True)
class _Link:
    """One connection of a client, and ours to the server for it."""

    host: str
    task: asyncio.Task[Any]
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    last_requests: bytes = b""
    loses_reply: bool = False
    lost_bytes: bool = False


class Proxy:
    """Forwards from ``port`` to the server's *target_port* until ``close``, worse after each fault asked for.

    Faults add up, hold for open and new connections alike, and end with ``heal``. All methods may be
    called from any thread, and have taken effect when they return.
    """

    def __init__(self, target_port: int, *, host: str = "127.0.0.1") -> None:
        self.host, self.port = host, free_port()
        self.target_port = target_port
        self.accepted = 0
        self.fired = threading.Event()
        self._requests, self._replies = Way(), Way()
        self._isolated: frozenset[str] = frozenset()
        self._lose_reply_to: bytes | None = None
        self._links: set[_Link] = set()
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()
        self._changed: asyncio.Event = self._call(asyncio.Event)
        self._await(self._listen())

    # Faults

    def delay(self, *, requests_seconds: float = 0.0, replies_seconds: float = 0.0) -> None:
        """Let what is sent from now on arrive that much later; does not limit how much is on its way."""
        self._requests.latency_seconds, self._replies.latency_seconds = requests_seconds, replies_seconds

    def limit(self, *, requests: float | None = None, replies: float | None = None) -> None:
        """Let no more than so many bytes per second through; None is without limit."""
        self._requests.bytes_per_second, self._replies.bytes_per_second = requests, replies

    def hold(self, *, requests: bool = True, replies: bool = True) -> None:
        """Deliver nothing until ``heal``, then everything, as TCP does after a short break of the line."""
        self._call(self._set, "held", requests, replies)

    def swallow(self, *, requests: bool = True, replies: bool = True) -> None:
        """Throw bytes away; ``heal`` cuts the connections that lost some.

        With *requests* False, the server does what it is told and nobody hears of it.
        """
        self._call(self._set, "swallowed", requests, replies)

    def isolate(self, *hosts: str) -> None:
        """Hold everything from and to those source addresses only; without any, from and to none."""
        self._isolated = frozenset(hosts)
        self._call(self._notify)

    def cut(self) -> None:
        """Reset every open connection; new ones are accepted."""
        self._await(self._cut())

    def cut_after(self, *, replies: int | None = None, requests: int | None = None) -> None:
        """Deliver so many more bytes, counted over all connections, then close the one that went beyond. Once."""
        self.fired.clear()
        self._replies.bytes_left, self._requests.bytes_left = replies, requests

    def lose_reply_to(self, request: bytes) -> None:
        """Deliver the next *request* (any bytes of it), and reset its connection instead of replying. Once.

        The server has carried it out when ``fired`` is set, as it has what was sent together with it.
        """
        self.fired.clear()
        self._lose_reply_to = request

    def refuse(self) -> None:
        """Refuse new connections, as a machine without the server does; leave the open ones alone."""
        self._call(self._stop_listening)

    def heal(self) -> None:
        """End all faults: deliver what was held, cut what lost bytes, accept again."""
        self._await(self._heal())

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._links)

    def close(self) -> None:
        """Cut everything and end the thread; a second time does nothing."""
        if self._loop.is_closed():
            return
        self._call(self._stop_listening)
        self._await(self._cut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._end_what_had_just_begun())
        self._loop.close()

    # In the loop's thread

    def _await(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        async def calling() -> Any:
            return function(*arguments)

        return self._await(calling())

    def _set(self, name: str, requests: bool, replies: bool) -> None:
        setattr(self._requests, name, requests)
        setattr(self._replies, name, replies)
        self._notify()

    def _notify(self) -> None:
        """Wake everyone who waits for a change of the faults."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(
                self._serve, self.host, self.port, reuse_address=True, backlog=512
            )

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _heal(self) -> None:
        self._requests, self._replies = Way(), Way()
        self._isolated, self._lose_reply_to = frozenset(), None
        await self._cut(lambda link: link.lost_bytes)
        self._notify()
        await self._listen()

    async def _end_what_had_just_begun(self) -> None:
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await asyncio.sleep(0)  # lets the aborted transports close their sockets

    async def _cut(self, which: Callable[[_Link], bool] = lambda _: True) -> None:
        """Reset the links that *which* chooses, and wait until they are gone."""
        tasks = [link.task for link in self._links if which(link)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        link = _Link(writer.get_extra_info("peername")[0], task, [writer])
        self.accepted += 1
        self._links.add(link)
        with suppress(OSError, asyncio.CancelledError):
            server_reader, server_writer = await asyncio.open_connection(self.host, self.target_port)
            link.writers.append(server_writer)
            await _all_or_none(
                self._forward(link, self._see_request, lambda: self._requests, reader, server_writer),
                self._forward(link, self._see_reply, lambda: self._replies, server_reader, writer),
            )
        self._links.discard(link)
        for each in link.writers:
            _reset(each)

    async def _forward(
        self,
        link: _Link,
        see: Callable[[_Link, bytes], bytes],
        way: Callable[[], Way],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Carry one direction's bytes to their end, in two tasks, so that latency does not limit the flow."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUED_SLICES)

        async def receive() -> None:
            while data := await reader.read(_SLICE_BYTES):
                if data := see(link, data):
                    await queue.put((self._loop.time() + way().latency_seconds, data))
            await queue.put((0.0, b""))

        async def send() -> None:
            while True:
                due, data = await queue.get()
                await asyncio.sleep(due - self._loop.time())
                while way().held or link.host in self._isolated:
                    await self._changed.wait()
                if not data:
                    writer.write_eof()
                    return
                await self._deliver(link, way(), data, writer)

        await _all_or_none(receive(), send())

    async def _deliver(self, link: _Link, way: Way, data: bytes, writer: asyncio.StreamWriter) -> None:
        """Send *data*, as fast as *way* allows and as far."""
        if way.swallowed:
            link.lost_bytes = True
            return
        if way.bytes_per_second:
            await asyncio.sleep(len(data) / way.bytes_per_second)
        beyond = way.bytes_left is not None and len(data) > way.bytes_left
        if way.bytes_left is not None:
            data = data[: way.bytes_left]
            way.bytes_left = None if beyond else way.bytes_left - len(data)
        writer.write(data)
        await writer.drain()
        if beyond:
            for each in link.writers:  # in order: the other side gets to read what was sent before
                each.close()
            self.fired.set()
            raise ConnectionAbortedError

    def _see_request(self, link: _Link, data: bytes) -> bytes:
        wanted = self._lose_reply_to
        if wanted is not None:
            seen = link.last_requests + data
            link.last_requests = seen[-len(wanted) :]
            if wanted in seen:
                link.loses_reply, link.last_requests, self._lose_reply_to = True, b"", None
        return data

    def _see_reply(self, link: _Link, data: bytes) -> bytes:
        if link.loses_reply:
            self.fired.set()
            raise ConnectionAbortedError
        return data


async def _all_or_none(*coroutines: Any) -> None:
    """Run *coroutines* to their end; when one fails, or we are cancelled, leave none running."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close at once, with a reset instead of a farewell unless it was already closed."""
    if not writer.is_closing():
        with suppress(OSError):
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
    writer.transport.abort()
