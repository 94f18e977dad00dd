-- Statements that read jobs, and those that every change of a job shares.
--
-- A set of ids is passed as the text of an array, rows are passed as JSON. Statements that lock several rows of a table
-- lock them in the order of its primary key, so that no two of them ever wait for each other.
--
-- Some columns have older names than the rest of the code uses: `seq` is the sequence of a job, `place` its position, `returns`
-- its uncounted requeues in a row, `attempt` the number of its latest attempt, and `unsettled` is true if its end is
-- unpropagated. The `place` of an artifact is its location.

-- name: columns
-- Part of other statements: the columns that are read of a job, under the names of the fields of JobRecord.
j.dependencies, {listed_columns}

-- name: listed_columns
-- Part of other statements: the same columns without the dependencies.
j.id, j.seq AS sequence, j.place AS position, j.channel, j.type, j.arch, j.state, j.priority, j.queued_at, j.not_before,
j.started_at, j.finished_at, j.retries, j.failures, j.returns AS uncounted_requeues, j.pending, j.attempt AS attempt_number,
j.worker_id, j.timeout, j.max_retries, j.retry_on_failure, j.retry_backoff, j.fail_with_dependency,
j.retention, j.idempotency_key, j.fingerprint

-- name: dependents
-- Part of other statements: the first of the jobs that depend on a job, in the order of submission.
ARRAY(SELECT e.dependent FROM composerd.edges e WHERE e.dependency = j.id ORDER BY e.seq LIMIT 1000)

-- name: get
-- Jobs by their ids.
SELECT {columns}, {dependents} AS dependents, p.body AS partial
FROM composerd.jobs j
LEFT JOIN composerd.progress p ON p.job_id = j.id AND j.state = 'running'
WHERE j.id = ANY (%(ids)s::uuid[])

-- name: listed
-- Jobs by their ids, as a listing shows them.
SELECT {listed_columns}, '{}'::uuid[] AS dependencies FROM composerd.jobs j WHERE j.id = ANY (%(ids)s::uuid[])

-- name: page_of_dependents
-- The jobs that depend on a job, in the order of submission, from a sequence on; no row if there is no such job.
SELECT e.dependent, e.seq AS sequence
FROM composerd.jobs j
LEFT JOIN LATERAL (
    SELECT * FROM composerd.edges o WHERE o.dependency = j.id AND o.seq >= %(cursor)s ORDER BY o.seq LIMIT %(limit)s
) e ON true
WHERE j.id = %(id)s::uuid
ORDER BY e.seq

-- name: lock_jobs
-- Lock jobs, so that they may be changed.
SELECT FROM composerd.jobs WHERE id = ANY (%(ids)s::uuid[]) ORDER BY id FOR UPDATE

-- name: read_jobs
-- Read jobs after they were locked, with the time after that.
SELECT clock_timestamp() + %(shift)s::interval AS now, {columns},
    EXISTS (SELECT FROM composerd.edges e WHERE e.dependency = j.id AND e.open) AS has_waiting_dependents,
    {dependents} AS dependents
FROM composerd.jobs j
WHERE j.id = ANY (%(ids)s::uuid[])
ORDER BY j.id

-- name: read_running
-- The running attempts at jobs that are locked.
SELECT a.token_hash, a.job_id, a.number, a.state AS attempt_state, a.confirm, a.digest, a.worker_id AS attempt_worker_id
FROM composerd.attempts a
WHERE a.job_id = ANY (%(ids)s::uuid[]) AND a.state = 'running'

-- name: save_jobs
-- Write the columns that transitions may have changed.
UPDATE composerd.jobs j
SET state = r.state, place = r.place, pending = r.pending, not_before = r.not_before, finished_at = r.finished_at,
    expires_at = r.expires_at, purge_at = r.expires_at, retries = r.retries, failures = r.failures, returns = r.returns,
    unsettled = CASE WHEN r.unsettled THEN EXISTS (SELECT FROM composerd.edges e WHERE e.dependency = r.id AND e.open) ELSE false END,
    result_size = r.result_size
FROM json_to_recordset(%(jobs)s) AS r(
    id uuid, state text, place bigint, pending integer, not_before timestamptz, finished_at timestamptz, expires_at timestamptz,
    retries integer, failures integer, returns integer, unsettled boolean, result_size bigint
)
WHERE j.id = r.id

-- name: save_attempts
-- Write the ends of attempts.
UPDATE composerd.attempts a
SET state = r.state, digest = decode(r.digest, 'base64')
FROM json_to_recordset(%(attempts)s) AS r(token_hash uuid, state text, digest text)
WHERE a.token_hash = r.token_hash

-- name: drop_leases
-- Delete the leases of attempts that ended.
DELETE FROM composerd.leases
WHERE token_hash IN (
    SELECT token_hash FROM composerd.leases WHERE token_hash = ANY (%(dropped)s::uuid[]) ORDER BY token_hash FOR UPDATE
)

-- name: drop_progress
-- Delete the progress of attempts that ended.
DELETE FROM composerd.progress WHERE job_id = ANY (%(over)s::uuid[])

-- name: drop_artifacts
-- Delete the artifacts of attempts that ended without becoming the job's.
DELETE FROM composerd.artifacts WHERE job_id = ANY (%(unpublished)s::uuid[])

-- name: copy_results
-- Write the results of jobs that ended. They follow, so that no log of statements has them.
COPY composerd.results (job_id, body) FROM STDIN (FORMAT binary)

-- name: notify
-- Notify the other servers when the transaction commits.
SELECT pg_notify(%(channel)s, n) FROM json_array_elements_text(%(notices)s) n

-- name: list
-- A page of jobs, newest first: those that pass the filter, of a bounded number of jobs before the cursor.
WITH read AS MATERIALIZED (
    SELECT {listed_columns}, '{}'::uuid[] AS dependencies FROM composerd.jobs j WHERE j.seq < %(cursor)s ORDER BY j.seq DESC LIMIT %(most)s
)
{passing}

-- name: list_channel
-- The same of the jobs of one channel, which must not be the empty one: jobs_channel has no others.
WITH read AS MATERIALIZED (
    SELECT {listed_columns}, '{}'::uuid[] AS dependencies
    FROM composerd.jobs j
    WHERE j.channel = %(channel)s AND j.channel <> '' AND j.seq < %(cursor)s
    ORDER BY j.seq DESC
    LIMIT %(most)s
)
{passing}

-- name: passing
-- What a page needs of the jobs that were read: how many they are, the last one, and those that pass the filter.
SELECT s.jobs_read, s.last_read, l.*
FROM (SELECT count(*) AS jobs_read, min(sequence) AS last_read FROM read) s
LEFT JOIN LATERAL (
    SELECT *
    FROM read
    WHERE (%(state)s::text IS NULL OR state = %(state)s) AND (%(type)s::text IS NULL OR type = %(type)s)
        AND (%(states)s::text[] IS NULL OR state = ANY (%(states)s::text[]))
        AND (%(channel)s::text IS NULL OR channel = %(channel)s) AND (%(arch)s::text IS NULL OR arch = %(arch)s)
    ORDER BY sequence DESC
    LIMIT %(limit)s
) l ON true
ORDER BY l.sequence DESC

-- name: payloads
-- Args and results in base64, in the order of the references. `expected` is true if there has to be one. Of args that are empty it
-- is unknown if there were any.
SELECT r.id AS job_id, r.kind,
    encode(CASE r.kind WHEN 'args' THEN (SELECT body FROM composerd.args WHERE job_id = r.id)
        ELSE (SELECT body FROM composerd.results WHERE job_id = r.id) END, 'base64') AS body,
    (
        SELECT CASE r.kind WHEN 'args' THEN j.args_size > 0 ELSE j.state IN ('finished', 'failed') END
        FROM composerd.jobs j WHERE j.id = r.id
    ) AS expected
FROM ROWS FROM (json_to_recordset(%(refs)s) AS (id uuid, kind text)) WITH ORDINALITY AS r(id, kind, nth)
ORDER BY r.nth

-- name: payloads_up_to
-- The sizes of args and results, in the order of the references, and in base64 those that have no more than `limit` bytes together
-- with all before them. A size is read without the bytes.
SELECT s.job_id, s.kind, s.size,
    CASE WHEN s.total <= %(limit)s THEN
        encode(CASE s.kind WHEN 'args' THEN (SELECT body FROM composerd.args WHERE job_id = s.job_id)
            ELSE (SELECT body FROM composerd.results WHERE job_id = s.job_id) END, 'base64')
    END AS body,
    (
        SELECT CASE s.kind WHEN 'args' THEN j.args_size > 0 ELSE j.state IN ('finished', 'failed') END
        FROM composerd.jobs j WHERE j.id = s.job_id
    ) AS expected
FROM (
    SELECT r.id AS job_id, r.kind, r.nth, l.size, sum(coalesce(l.size, 0)) OVER (ORDER BY r.nth) AS total
    FROM ROWS FROM (json_to_recordset(%(refs)s) AS (id uuid, kind text)) WITH ORDINALITY AS r(id, kind, nth)
    CROSS JOIN LATERAL (
        SELECT CASE r.kind WHEN 'args' THEN (SELECT octet_length(body) FROM composerd.args WHERE job_id = r.id)
            ELSE (SELECT octet_length(body) FROM composerd.results WHERE job_id = r.id) END AS size
    ) l
) s
ORDER BY s.nth

-- name: payload_part
-- A part of args or a result in base64.
SELECT encode(substring(
        CASE %(kind)s WHEN 'args' THEN (SELECT body FROM composerd.args WHERE job_id = %(id)s::uuid)
            ELSE (SELECT body FROM composerd.results WHERE job_id = %(id)s::uuid) END
        FROM %(start)s + 1 FOR %(length)s
    ), 'base64') AS body,
    (
        SELECT CASE %(kind)s WHEN 'args' THEN j.args_size > 0 ELSE j.state IN ('finished', 'failed') END
        FROM composerd.jobs j WHERE j.id = %(id)s::uuid
    ) AS expected

-- name: artifacts
-- The artifacts of jobs, by name.
SELECT job_id, name, size, sha256, place
FROM composerd.artifacts
WHERE job_id = ANY (%(ids)s::uuid[])
ORDER BY job_id, name

-- name: ahead
-- The number of ready jobs that are ahead of a ready job of their key, counted up to a limit.
SELECT count(*) AS count
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

-- name: counted_jobs
-- The number of jobs in each state, as a trigger keeps it (migration 010).
SELECT coalesce(sum(waiting), 0)::bigint AS waiting, coalesce(sum(ready), 0)::bigint AS ready,
    coalesce(sum(running), 0)::bigint AS running, coalesce(sum(finished), 0)::bigint AS finished,
    coalesce(sum(failed), 0)::bigint AS failed, coalesce(sum(canceled), 0)::bigint AS canceled
FROM composerd.counts

-- name: usage
-- What the jobs of channels use, as triggers keep it (migration 014).
SELECT channel, sum(waiting + ready)::bigint AS waiting, sum(running)::bigint AS running, sum(payloads)::bigint AS payloads,
    sum(files)::bigint AS artifacts
FROM composerd.counts
WHERE channel = ANY (%(channels)s::text[])
GROUP BY channel

-- name: fold_counts
-- Add the numbers of up to 1,000 sessions and channels to those of the channels, without waiting for a session that is changing
-- its numbers, and remove rows that count nothing.
WITH folded AS (
    DELETE FROM composerd.counts
    WHERE (channel, slot) IN (
        SELECT channel, slot FROM composerd.counts WHERE slot <> 0 ORDER BY channel, slot LIMIT 1000 FOR UPDATE SKIP LOCKED
    )
    RETURNING *
)
INSERT INTO composerd.counts AS c (channel, slot, waiting, ready, running, finished, failed, canceled, payloads, files)
SELECT channel, 0, sum(waiting), sum(ready), sum(running), sum(finished), sum(failed), sum(canceled), sum(payloads), sum(files)
FROM folded
GROUP BY channel
ORDER BY channel
ON CONFLICT (channel, slot) DO UPDATE
SET waiting = c.waiting + excluded.waiting, ready = c.ready + excluded.ready, running = c.running + excluded.running,
    finished = c.finished + excluded.finished, failed = c.failed + excluded.failed, canceled = c.canceled + excluded.canceled,
    payloads = c.payloads + excluded.payloads, files = c.files + excluded.files;
DELETE FROM composerd.counts
WHERE (channel, slot) IN (
    SELECT channel, slot
    FROM composerd.counts
    WHERE slot = 0 AND (waiting, ready, running, finished, failed, canceled, payloads, files) = (0, 0, 0, 0, 0, 0, 0, 0)
    FOR UPDATE SKIP LOCKED
)

-- name: count_jobs
-- The number of jobs in each state, counted.
SELECT s.state, count(j.id) AS jobs
FROM unnest(ARRAY['waiting', 'ready', 'running', 'finished', 'failed', 'canceled']) s(state)
LEFT JOIN composerd.jobs j ON j.state = s.state
GROUP BY s.state

-- name: miscounted
-- The channels whose jobs use something else than the triggers have counted. That a payload is lost is another problem.
SELECT channel
FROM (
    SELECT j.channel, 1 AS one, j.state, j.args_size + coalesce(octet_length(r.body), j.result_size, 0) AS payloads,
        coalesce(f.size, 0) AS files
    FROM composerd.jobs j
    LEFT JOIN composerd.results r ON r.job_id = j.id
    LEFT JOIN (SELECT job_id, sum(size) AS size FROM composerd.artifacts GROUP BY job_id) f ON f.job_id = j.id
    UNION ALL
    SELECT c.channel, -s.jobs, s.state, s.payloads, s.files
    FROM composerd.counts c
    CROSS JOIN LATERAL (
        VALUES (c.waiting, 'waiting', -c.payloads, -c.files), (c.ready, 'ready', 0, 0), (c.running, 'running', 0, 0),
            (c.finished, 'finished', 0, 0), (c.failed, 'failed', 0, 0), (c.canceled, 'canceled', 0, 0)
    ) s(jobs, state, payloads, files)
) u
GROUP BY channel
HAVING sum(payloads) <> 0 OR sum(files) <> 0 OR sum(one) FILTER (WHERE state = 'waiting') <> 0
    OR sum(one) FILTER (WHERE state = 'ready') <> 0 OR sum(one) FILTER (WHERE state = 'running') <> 0
    OR sum(one) FILTER (WHERE state = 'finished') <> 0 OR sum(one) FILTER (WHERE state = 'failed') <> 0
    OR sum(one) FILTER (WHERE state = 'canceled') <> 0
ORDER BY channel

-- name: server
-- Facts about the database, for people: its version, the size of the tables, how many programs use it, and since when its
-- clock is disputed.
SELECT current_setting('server_version') AS version,
    coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint AS bytes,
    (
        SELECT count(DISTINCT (client_addr, application_name)) FROM pg_stat_activity WHERE datname = current_database()
    ) AS clients,
    (SELECT disputed_since FROM composerd.clock) AS disputed_since
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relkind = 'r'

-- name: make_secret
-- Make the secret of the storage, unless there is one. A server that does so at the same moment waits, and makes none.
INSERT INTO composerd.secret (value)
SELECT sha256(convert_to(concat(gen_random_uuid(), gen_random_uuid(), gen_random_uuid()), 'UTF8'))
WHERE NOT EXISTS (SELECT FROM composerd.secret)
ON CONFLICT DO NOTHING

-- name: secret
-- The secret of the storage.
SELECT value FROM composerd.secret

-- name: last_sequence
-- The sequence of the latest job.
SELECT coalesce(max(seq), 0) AS sequence FROM composerd.jobs

-- name: dump_sizes
-- The next jobs of a dump, and the sizes of their payloads.
SELECT j.seq AS sequence,
    j.args_size + coalesce((SELECT octet_length(r.body) FROM composerd.results r WHERE r.job_id = j.id), 0) AS size
FROM composerd.jobs j
WHERE j.seq > %(after)s AND j.seq <= %(last)s
ORDER BY j.seq
LIMIT %(limit)s

-- name: dump
-- Jobs with their payloads, oldest submission first.
SELECT {columns}, {dependents} AS dependents, p.body AS partial, encode(a.body, 'base64') AS args,
    encode(r.body, 'base64') AS result,
    j.args_size > 0 AS expects_args, j.state IN ('finished', 'failed') AS expects_result
FROM composerd.jobs j
LEFT JOIN composerd.progress p ON p.job_id = j.id AND j.state = 'running'
LEFT JOIN composerd.args a ON a.job_id = j.id
LEFT JOIN composerd.results r ON r.job_id = j.id
WHERE j.seq = ANY (%(sequences)s::bigint[])
ORDER BY j.seq

-- name: dump_attempts
-- The remembered attempts at jobs, oldest first.
SELECT token_hash, job_id, number, state, confirm, lease, digest, worker_id
FROM composerd.attempts
WHERE job_id = ANY (%(ids)s::uuid[])
ORDER BY job_id, number

-- name: contradictions
-- Rows that contradict each other; there are none in an intact storage.
SELECT 'a running job without a lease' AS problem, j.id AS job_id FROM composerd.jobs j
WHERE j.state = 'running' AND NOT EXISTS (SELECT FROM composerd.leases l WHERE l.job_id = j.id)
UNION ALL
SELECT 'a lease of a job that is not running', l.job_id FROM composerd.leases l
WHERE NOT EXISTS (SELECT FROM composerd.jobs j WHERE j.id = l.job_id AND j.state = 'running')
UNION ALL
SELECT 'a waiting job whose number of unended dependencies is wrong', j.id FROM composerd.jobs j
WHERE j.state = 'waiting'
    AND j.pending <> (
        SELECT count(*) FROM composerd.edges e
        WHERE e.dependency = ANY (j.dependencies) AND e.dependent = j.id AND e.open
    )
UNION ALL
SELECT 'a job whose args are missing or incomplete', j.id FROM composerd.jobs j
WHERE j.args_size > 0 AND NOT EXISTS (SELECT FROM composerd.args a WHERE a.job_id = j.id AND octet_length(a.body) = j.args_size)
UNION ALL
SELECT 'an ended job without a result', j.id FROM composerd.jobs j
WHERE j.state IN ('finished', 'failed') AND NOT EXISTS (SELECT FROM composerd.results r WHERE r.job_id = j.id)

-- name: places_behind
-- The number that was drawn last for a sequence or a position, and the latest that a job has, if that is later.
SELECT {last_place} AS last, m.latest
FROM (SELECT greatest(max(seq), max(place)) AS latest FROM composerd.jobs) m
WHERE m.latest > {last_place}
