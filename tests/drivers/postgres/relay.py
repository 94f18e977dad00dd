"""A relay between a driver and the database, which can be made to drop everything."""

import asyncio
from pathlib import Path
from typing import Self

from ...throwaway import Throwaway


class Relay:
    """A unix socket in a directory, or a port of 127.0.0.1 only, that leads to the database."""

    def __init__(self, postgres: Throwaway, directory: Path | None = None) -> None:
        self.silent = asyncio.Event()
        self.port = 0
        self.accepted = 0
        """The number of connections that were accepted."""
        self._target = str(postgres.directory / ".s.PGSQL.5432")
        self._directory = directory
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        if self._directory is not None:
            self._server = await asyncio.start_unix_server(self._serve, self._directory / ".s.PGSQL.5432")
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        there_reader, there_writer = await asyncio.open_unix_connection(self._target)
        for source, sink in ((reader, there_writer), (there_reader, writer)):
            self._tasks.append(asyncio.create_task(self._copy(source, sink)))

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                if not self.silent.is_set():
                    sink.write(data)
        finally:
            sink.close()
