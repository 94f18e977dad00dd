-- Looking at jobs, and the statements that every change of one shares. Ids come as the text of an array, rows as JSON.

-- name: columns
-- What is read of a job; composerd_postgres.jobs.rows knows the order.
j.id, j.seq, j.place, j.channel, j.type, j.arch, j.state, j.priority, j.queued_at, j.not_before, j.started_at, j.finished_at,
j.expires_at, j.retries, j.failures, j.returns, j.pending, j.attempt, j.worker_id, j.dependencies, j.timeout, j.max_retries,
j.retry_on_failure, j.retry_backoff, j.fail_with_dependency, j.retention, j.idempotency_key, j.fingerprint

-- name: dependents
-- The jobs that depend on one, in the order of submission.
ARRAY(SELECT e.dependent FROM composerd.edges e WHERE e.dependency = j.id ORDER BY e.seq)

-- name: get
SELECT {columns}, {dependents}, p.body
FROM composerd.jobs j
LEFT JOIN composerd.progress p ON p.job_id = j.id AND j.state = 'running'
WHERE j.id = ANY (%(ids)s::uuid[])

-- name: lock_jobs
-- In the order of ids, so that two of these never wait for each other.
SELECT FROM composerd.jobs WHERE id = ANY (%(ids)s::uuid[]) ORDER BY id FOR UPDATE

-- name: read_jobs
-- Jobs that are locked. The time is taken after the locks; a place, should the job go back, is drawn in advance.
SELECT clock_timestamp() + %(shift)s::interval, {columns},
    EXISTS (SELECT FROM composerd.edges e WHERE e.dependency = j.id AND e.open),
    CASE WHEN %(places)s THEN nextval('composerd.places') END,
    {dependents}
FROM composerd.jobs j
WHERE j.id = ANY (%(ids)s::uuid[])
ORDER BY j.id

-- name: read_running
-- The attempts that run of jobs that are locked.
SELECT a.token, a.job_id, a.number, a.state, a.confirm, a.digest, a.worker_id
FROM composerd.attempts a
WHERE a.job_id = ANY (%(ids)s::uuid[]) AND a.state = 'running'

-- name: save_jobs
UPDATE composerd.jobs j
SET state = r.state, place = r.place, pending = r.pending, not_before = r.not_before, finished_at = r.finished_at,
    expires_at = r.expires_at, purge_at = r.expires_at, retries = r.retries, failures = r.failures, returns = r.returns,
    unsettled = r.unsettled
FROM json_to_recordset(%(jobs)s) AS r(
    id uuid, state text, place bigint, pending integer, not_before timestamptz, finished_at timestamptz, expires_at timestamptz,
    retries integer, failures integer, returns integer, unsettled boolean
)
WHERE j.id = r.id

-- name: save_attempts
UPDATE composerd.attempts a
SET state = r.state, digest = decode(r.digest, 'base64')
FROM json_to_recordset(%(attempts)s) AS r(token uuid, state text, digest text)
WHERE a.token = r.token

-- name: drop_leases
-- In the order of tokens, like every statement that changes leases.
DELETE FROM composerd.leases
WHERE token IN (SELECT token FROM composerd.leases WHERE token = ANY (%(dropped)s::uuid[]) ORDER BY token FOR UPDATE)

-- name: drop_progress
DELETE FROM composerd.progress WHERE job_id = ANY (%(over)s::uuid[])

-- name: drop_artifacts
DELETE FROM composerd.artifacts WHERE job_id = ANY (%(unpublished)s::uuid[])

-- name: save_results
INSERT INTO composerd.results (job_id, body)
SELECT r.id, decode(r.body, 'base64') FROM json_to_recordset(%(results)s) AS r(id uuid, body text)

-- name: notify
SELECT pg_notify(%(channel)s, n) FROM json_array_elements_text(%(notices)s) n

-- name: list
-- A bounded look, newest first: so many jobs before the cursor, and those of them that pass.
WITH looked AS MATERIALIZED (
    SELECT {columns} FROM composerd.jobs j WHERE j.seq < %(cursor)s ORDER BY j.seq DESC LIMIT %(most)s
)
SELECT s.count, s.least, l.*
FROM (SELECT count(*) AS count, min(seq) AS least FROM looked) s
LEFT JOIN LATERAL (
    SELECT *
    FROM looked
    WHERE (%(state)s::text IS NULL OR state = %(state)s) AND (%(type)s::text IS NULL OR type = %(type)s)
        AND (%(channel)s::text IS NULL OR channel = %(channel)s) AND (%(arch)s::text IS NULL OR arch = %(arch)s)
    ORDER BY seq DESC
    LIMIT %(limit)s
) l ON true
ORDER BY l.seq DESC

-- name: payloads
SELECT CASE r.kind WHEN 'args' THEN (SELECT body FROM composerd.args WHERE job_id = r.id)
    ELSE (SELECT body FROM composerd.results WHERE job_id = r.id) END
FROM ROWS FROM (json_to_recordset(%(refs)s) AS (id uuid, kind text)) WITH ORDINALITY AS r(id, kind, nth)
ORDER BY r.nth

-- name: artifacts
SELECT job_id, name, size, sha256, place
FROM composerd.artifacts
WHERE job_id = ANY (%(ids)s::uuid[])
ORDER BY job_id, name

-- name: ahead
SELECT count(*)
FROM composerd.jobs j
CROSS JOIN LATERAL (
    SELECT
    FROM composerd.jobs o
    WHERE o.state = 'ready' AND o.channel = j.channel AND o.type = j.type AND o.arch = j.arch
        AND (-o.priority, o.place) < (-j.priority, j.place)
    ORDER BY -o.priority, o.place
    LIMIT %(limit)s
) o
WHERE j.id = %(id)s::uuid AND j.state = 'ready'

-- name: count_jobs
SELECT state, count(*) FROM composerd.jobs GROUP BY state

-- name: dump
-- Some jobs from a number on, as they are at one moment.
SELECT {columns}, {dependents}, p.body, a.body, r.body
FROM composerd.jobs j
LEFT JOIN composerd.progress p ON p.job_id = j.id AND j.state = 'running'
LEFT JOIN composerd.args a ON a.job_id = j.id
LEFT JOIN composerd.results r ON r.job_id = j.id
WHERE j.seq = ANY (%(seqs)s::bigint[])
ORDER BY j.seq

-- name: dump_sizes
-- The numbers after one, and how much their jobs' payloads weigh.
SELECT j.seq, j.args_size + coalesce((SELECT octet_length(r.body) FROM composerd.results r WHERE r.job_id = j.id), 0)
FROM composerd.jobs j
WHERE j.seq > %(after)s AND j.seq <= %(last)s
ORDER BY j.seq
LIMIT %(limit)s

-- name: last_seq
SELECT coalesce(max(seq), 0) FROM composerd.jobs

-- name: dump_attempts
SELECT token, job_id, number, state, confirm, lease, digest, worker_id
FROM composerd.attempts
WHERE job_id = ANY (%(ids)s::uuid[])
ORDER BY job_id, number

-- name: orphans
-- What a sound storage has none of.
SELECT 'a running job without a lease', j.id FROM composerd.jobs j
WHERE j.state = 'running' AND NOT EXISTS (SELECT FROM composerd.leases l WHERE l.job_id = j.id)
UNION ALL
SELECT 'a lease of a job that does not run', l.job_id FROM composerd.leases l
WHERE NOT EXISTS (SELECT FROM composerd.jobs j WHERE j.id = l.job_id AND j.state = 'running')
UNION ALL
SELECT 'a job that waits for another number of dependencies than are open', j.id FROM composerd.jobs j
WHERE j.state = 'waiting'
    AND j.pending <> (
        SELECT count(*) FROM composerd.edges e
        WHERE e.dependency = ANY (j.dependencies) AND e.dependent = j.id AND e.open
    )
UNION ALL
SELECT 'a job without the args that it was submitted with', j.id FROM composerd.jobs j
WHERE j.args_size > 0 AND NOT EXISTS (SELECT FROM composerd.args a WHERE a.job_id = j.id AND octet_length(a.body) = j.args_size)
UNION ALL
SELECT 'an ended job without a result', j.id FROM composerd.jobs j
WHERE j.state IN ('finished', 'failed') AND NOT EXISTS (SELECT FROM composerd.results r WHERE r.job_id = j.id)
