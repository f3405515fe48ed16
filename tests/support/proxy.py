"""A proxy in front of a server that breaks what it is told to break.

It runs in a thread of its own, so that blocking clients and clients of another language can use it
too. Everything it does to a connection is counted or awaited, not timed.

    with FaultProxy.start(server.port) as proxy:
        proxy.drop_reply("EVALSHA")           # the next one is carried out, its reply is lost
        ...                                   # a client of proxy.url
        assert proxy.dropped == 1
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import Future
from typing import Any, Self, TypeVar, cast

import hiredis

T = TypeVar("T")

_CHUNK = 65536

# Its stub promises commands of one word only.
_pack = cast(Callable[[tuple[bytes, ...]], bytes], cast(Any, hiredis).pack_command)


class _Drop:
    """Lose the reply to the `nth` command named `name`, from now on.

    `firsts`: only commands with one of these as their first argument count; empty: all.
    """

    def __init__(self, name: str, nth: int, carry_out: str, firsts: Collection[str]) -> None:
        self.name = name.upper().encode()
        self.left = nth
        self.carry_out = carry_out
        self.firsts = {first.encode() for first in firsts}

    def takes(self, command: list[bytes]) -> bool:
        if command[0].upper() != self.name or self.left == 0:
            return False
        if self.firsts and command[1] not in self.firsts:
            return False
        self.left -= 1
        return self.left == 0


class _Link:
    """One client's connection and the one to the server that belongs to it."""

    def __init__(self, proxy: FaultProxy, client: asyncio.StreamWriter) -> None:
        self.proxy = proxy
        self.client = client
        self.server: asyncio.StreamWriter | None = None
        self.sent = 0
        self.answered = 0
        self.doomed_at: int | None = None

    def close(self) -> None:
        for writer in (self.client, self.server):
            if writer is None:
                continue
            if writer.get_extra_info("sslcontext") is None:
                writer.close()
            else:
                writer.transport.abort()  # a farewell over TLS could take for ever


class FaultProxy:
    """Stands between clients and the server at `target_port` of the loopback interface.

    With `tls`, clients have to speak TLS to it.
    """

    def __init__(self, target_port: int, tls: ssl.SSLContext | None = None) -> None:
        self._target_port = target_port
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._listener: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._drops: list[_Drop] = []
        self._held: list[tuple[bytes, ...]] = []
        self._open = asyncio.Event()
        self._open.set()
        self._delay = 0.0
        self._slice = _CHUNK
        self.port = 0
        self.accepted = 0
        """Connections taken so far."""
        self.dropped = 0
        """Replies lost so far."""
        self.commands: list[bytes] = []
        """Names of the commands that clients sent, in upper case."""

    @classmethod
    def start(cls, target_port: int, tls: ssl.SSLContext | None = None) -> FaultProxy:
        proxy = cls(target_port, tls)
        proxy._thread.start()
        proxy._run(proxy._listen())
        return proxy

    @property
    def url(self) -> str:
        scheme = "redis" if self._tls is None else "rediss"
        return f"{scheme}://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # What can be broken. `firsts`: only commands with one of these as their first argument count.

    def drop_reply(self, name: str = "EVALSHA", nth: int = 1, firsts: Collection[str] = ()) -> None:
        """Let the server carry out the `nth` command of that name from now; lose its reply."""
        self._call(lambda: self._drops.append(_Drop(name, nth, "now", firsts)))

    def drop_command(
        self, name: str = "EVALSHA", nth: int = 1, firsts: Collection[str] = ()
    ) -> None:
        """Lose the `nth` command of that name before the server sees it."""
        self._call(lambda: self._drops.append(_Drop(name, nth, "never", firsts)))

    def hold_command(
        self, name: str = "EVALSHA", nth: int = 1, firsts: Collection[str] = ()
    ) -> None:
        """Lose that command, but keep it for `deliver`: it reaches the server late."""
        self._call(lambda: self._drops.append(_Drop(name, nth, "later", firsts)))

    def deliver(self) -> list[Any]:
        """Send the held commands to the server now; its replies."""
        return self._run(self._deliver())

    def cut(self) -> None:
        """Close all connections."""
        self._call(self._cut)

    def refuse(self) -> None:
        """Close all connections and take no more of them, until `accept`."""
        self._run(self._refuse())

    def accept(self) -> None:
        """Take connections again, at the same port."""
        self._run(self._listen())

    def blackhole(self) -> None:
        """Keep connections open and take new ones, but pass nothing on, until `restore`."""
        self._call(self._open.clear)

    def delay(self, seconds: float) -> None:
        """Pass everything on that much later, in both directions."""
        self._call(lambda: setattr(self, "_delay", seconds))

    def slice(self, size: int) -> None:
        """Pass everything on in pieces of that many bytes."""
        self._call(lambda: setattr(self, "_slice", size))

    def restore(self) -> None:
        """Pass everything on as it is: ends `blackhole`, `delay`, `slice` and what was to drop."""

        def whole() -> None:
            self._open.set()
            self._drops.clear()
            self._delay, self._slice = 0.0, _CHUNK

        self._call(whole)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._run(self._stop())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    # How.

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    def _call(self, function: Callable[[], object]) -> None:
        done: Future[None] = Future()

        def call() -> None:
            function()
            done.set_result(None)

        self._loop.call_soon_threadsafe(call)
        done.result(10)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self._tls
        )
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        if self._listener is not None:
            listener, self._listener = self._listener, None
            for each in listener.sockets:
                self._loop.remove_reader(each.fileno())
            await self._rounds()  # Python 3.13 leaks what it has just taken, if this is closed now
            listener.close()
        self._cut()

    def _cut(self) -> None:
        for link in list(self._links):
            link.close()

    async def _stop(self) -> None:
        await self._refuse()
        await self._rounds()  # a connection that was just taken is being served only then
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._rounds()  # the loop closes sockets in its next rounds

    @staticmethod
    async def _rounds() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        link = _Link(self, writer)
        self._links.add(link)
        try:
            answers, link.server = await asyncio.open_connection("127.0.0.1", self._target_port)
            up = asyncio.create_task(self._up(reader, link))
            down = asyncio.create_task(self._down(answers, link))
            self._tasks |= {up, down}
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            for pump in (up, down):
                pump.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            self._tasks -= {up, down}
        except (OSError, asyncio.CancelledError):
            pass  # the server is gone, or the proxy is to stop: so goes the client's connection
        finally:
            link.close()
            self._links.discard(link)
            self._tasks.discard(task)

    async def _up(self, reader: asyncio.StreamReader, link: _Link) -> None:
        assert link.server is not None
        parser = hiredis.Reader()
        while data := await reader.read(_CHUNK):
            parser.feed(data)
            while (command := parser.gets()) is not False:
                self.commands.append(command[0].upper())
                drop = next((d for d in self._drops if d.takes(command)), None)
                if drop is not None:
                    self._drops.remove(drop)
                    self.dropped += 1
                    if drop.carry_out == "later":
                        self._held.append(tuple(command))
                    if drop.carry_out != "now":
                        return
                    link.doomed_at = link.sent
                link.sent += 1
                await self._pass(_pack(tuple(command)), link.server)

    async def _down(self, reader: asyncio.StreamReader, link: _Link) -> None:
        parser = hiredis.Reader()
        while data := await reader.read(_CHUNK):
            parser.feed(data)
            while parser.gets() is not False:
                link.answered += 1
            if link.doomed_at is None:
                await self._pass(data, link.client)
            elif link.answered > link.doomed_at:
                return

    async def _pass(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        if self._delay:
            await asyncio.sleep(self._delay)
        for start in range(0, len(data), self._slice):
            await self._open.wait()
            writer.write(data[start : start + self._slice])
            await writer.drain()

    async def _deliver(self) -> list[Any]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        replies: list[Any] = []
        parser = hiredis.Reader()
        held, self._held = self._held, []
        for command in held:
            writer.write(_pack(command))
            while (reply := parser.gets()) is False:
                parser.feed(await reader.read(_CHUNK))
            replies.append(reply)
        writer.close()
        return replies
