-- Statements that store submissions, and jobs from another storage.

-- name: begin_enqueue
-- Return the time, a sequence for each job, and the jobs that are stored already: by id, and by idempotency key.
SELECT clock_timestamp() + %(shift)s::interval AS now,
    ARRAY(SELECT nextval('composerd.places') FROM generate_series(1, %(count)s)) AS sequences,
    ARRAY(SELECT j.id FROM composerd.jobs j WHERE j.id = ANY (%(ids)s::uuid[])) AS stored,
    ARRAY(
        SELECT j.id
        FROM json_to_recordset(%(keys)s) AS k(channel text, key text)
        JOIN composerd.jobs j ON j.channel = k.channel AND j.idempotency_key = k.key
    ) AS keyed

-- name: last_place
-- Part of other statements: the number that was drawn last for a sequence or a position.
(
    SELECT coalesce(max(last_value), 0) FROM pg_sequences WHERE schemaname = %(schema)s AND sequencename = 'places'
)

-- name: places
-- The number that was drawn last, and if the latest job has a later one.
SELECT s.last, coalesce((SELECT max(j.seq) FROM composerd.jobs j) > s.last, false) AS behind
FROM (SELECT {last_place} AS last) s

-- name: set_places
-- Let the numbers that are drawn from now on be later than those of all jobs; return no row if they are already.
SELECT setval('composerd.places', m.latest) AS last
FROM (SELECT greatest(max(seq), max(place)) AS latest FROM composerd.jobs) m
WHERE m.latest > {last_place}

-- name: lock_referenced
-- Read the jobs that a submission depends on or repeats, and lock them so that they do not end meanwhile. An end needs
-- FOR UPDATE and has to wait; a claim needs a weaker lock and does not wait. A job that has to be in a channel, and is
-- not, is neither read nor locked: nobody finds out by waiting that it exists.
SELECT {columns}, p.body AS partial
FROM json_to_recordset(%(referenced)s) AS r(id uuid, channel text)
JOIN composerd.jobs j ON j.id = r.id AND j.channel = coalesce(r.channel, j.channel)
LEFT JOIN composerd.progress p ON p.job_id = j.id AND j.state = 'running'
ORDER BY j.id
FOR KEY SHARE OF j

-- name: insert_jobs
-- Store new jobs.
INSERT INTO composerd.jobs (
    id, seq, place, channel, type, arch, state, priority, queued_at, not_before, started_at, finished_at, expires_at, purge_at,
    retries, failures, returns, pending, attempt, worker_id, unsettled, dependencies, timeout, max_retries, retry_on_failure,
    retry_backoff, fail_with_dependency, retention, idempotency_key, fingerprint, args_size, result_size
)
SELECT r.id, r.seq, r.place, r.channel, r.type, r.arch, r.state, r.priority, r.queued_at, r.not_before, r.started_at,
    r.finished_at, r.expires_at, r.expires_at, r.retries, r.failures, r.returns, r.pending, r.attempt, r.worker_id, r.unsettled,
    ARRAY(SELECT d::uuid FROM json_array_elements_text(r.dependencies) d), r.timeout, r.max_retries, r.retry_on_failure,
    r.retry_backoff, r.fail_with_dependency, r.retention, r.idempotency_key, decode(r.fingerprint, 'base64'), r.args_size,
    r.result_size
FROM json_to_recordset(%(jobs)s) AS r(
    id uuid, seq bigint, place bigint, channel text, type text, arch text, state text, priority integer, queued_at timestamptz,
    not_before timestamptz, started_at timestamptz, finished_at timestamptz, expires_at timestamptz, retries integer,
    failures integer, returns integer, pending integer, attempt integer, worker_id uuid, unsettled boolean, dependencies json,
    timeout double precision, max_retries integer, retry_on_failure integer, retry_backoff double precision,
    fail_with_dependency boolean, retention double precision, idempotency_key text, fingerprint text, args_size bigint,
    result_size bigint
)

-- name: copy_args
-- Store the args of new jobs. They follow, so that no log of statements has them.
COPY composerd.args (job_id, body) FROM STDIN (FORMAT binary)

-- name: insert_edges
-- Store the dependencies of new jobs.
INSERT INTO composerd.edges (dependency, dependent, seq, open)
SELECT r.dependency, r.dependent, r.seq, r.open
FROM json_to_recordset(%(edges)s) AS r(dependency uuid, dependent uuid, seq bigint, open boolean)

-- name: insert_attempts
-- Store the remembered attempts at jobs from another storage.
INSERT INTO composerd.attempts (token_hash, job_id, number, state, confirm, lease, digest, worker_id)
SELECT r.token_hash, r.job_id, r.number, r.state, r.confirm, r.lease, decode(r.digest, 'base64'), r.worker_id
FROM json_to_recordset(%(attempts)s) AS r(
    token_hash uuid, job_id uuid, number integer, state text, confirm boolean, lease double precision, digest text, worker_id uuid
)

-- name: insert_leases
-- Give running attempts from another storage a full lease, over their jobs' timeouts too. Does the same as `resume` of
-- composerd.driver.transitions. That a worker has called is known only of those that have files.
INSERT INTO composerd.leases (token_hash, job_id, worker_id, lease, handover, confirmed, began, timeout_at, deadline)
SELECT a.token_hash, a.job_id, a.worker_id, a.lease, NULL,
    EXISTS (SELECT FROM composerd.artifacts f WHERE f.job_id = a.job_id), -- which a worker has called at least to attach
    b.began,
    CASE WHEN j.timeout IS NOT NULL THEN greatest(b.began + make_interval(secs => j.timeout), b.deadline) END, b.deadline
FROM composerd.attempts a
JOIN composerd.jobs j ON j.id = a.job_id
CROSS JOIN LATERAL (
    SELECT coalesce(j.started_at, %(now)s) AS began, %(now)s + make_interval(secs => a.lease) AS deadline
) b
WHERE a.job_id = ANY (%(ids)s::uuid[]) AND a.state = 'running'

-- name: mark_unpropagated
-- Mark ended jobs on which jobs from another storage still wait.
UPDATE composerd.jobs SET unsettled = true WHERE id = ANY (%(unpropagated)s::uuid[])

-- name: find_room
-- Store 64 KiB that cannot be compressed, to be rolled back: the statement fails if the database has no room for them.
INSERT INTO composerd.args (job_id, body)
SELECT gen_random_uuid(), decode(string_agg(md5(random()::text), ''), 'hex') FROM generate_series(1, 4096)
