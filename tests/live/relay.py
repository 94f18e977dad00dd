"""A proxy that does not pass on that its client has gone, like HAProxy and Apache in their default configuration."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from .conftest import LOOPBACK


class Relay:
    """Passes on bytes in both directions, and the end of the connection only from the server to the client."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._tasks: set[asyncio.Task[None]] = set()
        self.address = ("", 0)
        """The host and the port on which it listens."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection."""
        from_server, to_server = await asyncio.open_connection(*self._server)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(from_server, writer))
                with suppress(ConnectionError):
                    await _copy(reader, to_server)
        finally:
            to_server.close()
            writer.close()

    async def close(self) -> None:
        """End all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        if not writer.is_closing():
            writer.write(data)


@asynccontextmanager
async def relay_to(server: tuple[str, int]) -> AsyncIterator[Relay]:
    """Run such a proxy in front of a server."""
    relay = Relay(server)
    listening = await asyncio.start_server(relay.serve, LOOPBACK, 0)
    relay.address = listening.sockets[0].getsockname()
    async with listening:
        yield relay
        await relay.close()
