"""Locks that tests hold, so that statements of a driver get no answer. It contains no test."""

import contextlib
from collections.abc import AsyncIterator

import psycopg2

from ...throwaway import Throwaway


@contextlib.asynccontextmanager
async def locked(postgres: Throwaway, statement: str) -> AsyncIterator[None]:
    """Hold the locks of a statement."""
    connection = psycopg2.connect(host=str(postgres.directory), user="tests", dbname="postgres")
    with connection.cursor() as cursor:
        cursor.execute(statement)
        yield
    connection.close()
