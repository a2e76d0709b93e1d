"""A TCP proxy on this machine that fails as networks do: cut, half open, slow."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType


class Proxy:
    """Passes bytes between whoever connects to `port` and a port behind it.

    Args:
        behind: a port of this machine.

    Attributes:
        port: where to connect.
        delay_s: how long each piece is held back.
    """

    def __init__(self, behind: int) -> None:
        self.port = 0
        self.delay_s = 0.0
        self._behind = behind
        self._passes = asyncio.Event()
        self._refuses = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def cut(self) -> None:
        """End all connections and take no new one."""
        self._refuses = True
        self._call(self._drop)

    def freeze(self) -> None:
        """Connections stay and nothing passes any more: what a dead router leaves behind."""
        self._call(self._passes.clear)

    def heal(self) -> None:
        """Pass again. What was frozen is dead: it ends, and may be made anew."""
        self._refuses = False
        self._call(self._drop)
        self._call(self._passes.set)

    def _drop(self) -> None:
        for writer in tuple(self._writers):
            writer.transport.abort()

    def _call(self, what: object) -> None:
        assert callable(what)
        self._loop.call_soon_threadsafe(what)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._ended = asyncio.Event()
        self._passes.set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._is_ready.set()
        async with server:
            await self._ended.wait()
            self._drop()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            writer.transport.abort()
            return
        self._writers.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._behind)
        except OSError:
            writer.transport.abort()
            self._writers.discard(writer)
            return
        self._writers.add(far_writer)
        await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))
        self._writers -= {writer, far_writer}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                await self._passes.wait()
                await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # one of them is gone: so is the other one, below
        writer.transport.abort()

    def __enter__(self) -> Proxy:
        self._thread.start()
        if not self._is_ready.wait(60):
            raise TimeoutError("the proxy did not start")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._call(self._ended.set)
        self._thread.join(60)
