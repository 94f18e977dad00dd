"""Storages as earlier versions of composerd left them."""

from uuid import UUID

from composerd_postgres import PostgresDriver
from composerd_postgres.db.pool import Connections
from composerd_postgres.sql.migrate import migrate, migrations

from ...throwaway import Throwaway

JOB, TOKEN, ENDED, ENDED_TOKEN = (UUID(int=n << 64 | 0x8 << 60 | 0x4 << 76) for n in range(1, 5))
"""A running job with its token, and a finished one."""


async def old_storage(postgres: Throwaway, number: int) -> PostgresDriver:
    """Return an unopened driver on a storage that has the migrations up to a number, before tokens were hashed.

    The lease of the running job is of a minute.
    """
    driver = PostgresDriver.from_url(postgres.fresh())
    schema = driver.options.schema
    connection = await Connections(driver.options).dedicated()
    await migrate(connection, schema, migrations()[:number])
    connection.close()
    postgres.sql(
        f"""
        INSERT INTO {schema}.jobs (
            id, seq, place, channel, type, arch, state, priority, queued_at, started_at, finished_at, attempt,
            dependencies, max_retries, retry_on_failure, retry_backoff, fail_with_dependency, fingerprint, args_size
        ) SELECT id::uuid, seq, seq, '', 'build', '', state, 0, now(), now(), ended, 1, '{{}}', 2, 0, 0, false, '', 2
        FROM (VALUES ('{JOB}', nextval('{schema}.places'), 'running', NULL::timestamptz),
            ('{ENDED}', nextval('{schema}.places'), 'finished', now())) v(id, seq, state, ended);
        INSERT INTO {schema}.args (job_id, body) VALUES ('{JOB}', '{{}}'), ('{ENDED}', '{{}}');
        INSERT INTO {schema}.results (job_id, body) VALUES ('{ENDED}', '1');
        INSERT INTO {schema}.attempts (token, job_id, number, state, confirm, lease, digest)
        VALUES ('{TOKEN}', '{JOB}', 1, 'running', false, 60, ''),
            ('{ENDED_TOKEN}', '{ENDED}', 1, 'finished', false, 60, substring(sha256('1') FOR 16));
        INSERT INTO {schema}.leases (token, job_id, lease, confirmed, began, deadline)
        VALUES ('{TOKEN}', '{JOB}', 60, true, now(), now() + interval '60 s');
        """
    )
    return driver
