"""The driver `postgresql`: jobs in a PostgreSQL database that any number of servers can share.

Importing it needs the packages of the extra `composerd[postgres]`.
"""

try:
    import aiopg as _aiopg
    import psycopg2 as _psycopg2
except ImportError as exc:
    raise ImportError(f"{exc}; the postgresql driver needs more packages: pip install 'composerd[postgres]'") from exc

from composerd_postgres.driver import PostgresDriver as PostgresDriver

__all__ = ["PostgresDriver"]

del _aiopg, _psycopg2
