-- Statements about attempts, which are named by the hashes of their tokens.

-- name: claim
-- Begin attempts at ready jobs: see the function in migration 011. Does the same as `begin` of composerd.driver.transitions.
-- `lost` is true if the job has to have args that are not found.
SELECT c.request, c.job_id, c.channel, c.type, c.arch, c.rank, c.place AS position, encode(c.args, 'base64') AS args, c.dependencies,
    c.attempt AS attempt_number, c.lapses_in AS due_in, c.fresh, c.contended,
    c.args IS NULL AND composerd.has_args(c.job_id) AS lost,
    CASE WHEN c.fresh THEN false ELSE coalesce((SELECT l.confirmed FROM composerd.leases l WHERE l.token_hash = c.token_hash), false)
    END AS confirmed
FROM composerd.begin_attempts(%(requests)s, %(wanted)s, %(most)s, %(shift)s::interval) c

-- name: lock_attempts
-- Lock the jobs of attempts, so that both may be changed.
SELECT FROM composerd.jobs
WHERE id IN (SELECT a.job_id FROM composerd.attempts a WHERE a.token_hash = ANY (%(hashes)s::uuid[]))
ORDER BY id
FOR UPDATE

-- name: lock_free_attempts
-- Lock the jobs of attempts, except those that another transaction has locked, and return the attempts whose jobs are locked.
SELECT a.token_hash
FROM composerd.attempts a
JOIN composerd.jobs j ON j.id = a.job_id
WHERE a.token_hash = ANY (%(hashes)s::uuid[])
FOR UPDATE OF j SKIP LOCKED

-- name: read_attempts
-- Read attempts with their jobs after these were locked, with the time after that. If a job may be requeued, a position
-- is drawn for each attempt in advance.
SELECT clock_timestamp() + %(shift)s::interval AS now, {columns},
    EXISTS (SELECT FROM composerd.edges e WHERE e.dependency = j.id AND e.open) AS has_waiting_dependents,
    CASE WHEN %(draw_positions)s THEN nextval('composerd.places') END AS next_position,
    a.token_hash, a.number, a.state AS attempt_state, a.confirm, a.digest, a.worker_id AS attempt_worker_id
FROM composerd.attempts a
JOIN composerd.jobs j ON j.id = a.job_id
WHERE a.token_hash = ANY (%(hashes)s::uuid[])
ORDER BY j.id

-- name: touch
-- Renew the leases of running attempts, and say what became of the others. Jobs are neither read nor locked.
-- Does the same as `renew` and `restart_handover` of composerd.driver.transitions.
WITH touches AS MATERIALIZED (
    SELECT *
    FROM ROWS FROM (json_to_recordset(%(touches)s) AS (token_hash uuid, confirm boolean))
        WITH ORDINALITY AS r(token_hash, confirm, nth)
),
alive AS MATERIALIZED (
    SELECT l.token_hash, l.confirmed
    FROM composerd.leases l
    WHERE l.token_hash IN (SELECT token_hash FROM touches)
    ORDER BY l.token_hash
    FOR UPDATE
),
renewed AS (
    UPDATE composerd.leases l
    SET confirmed = l.confirmed OR a.confirm,
        deadline = CASE
            WHEN a.confirm THEN clock_timestamp() + %(shift)s::interval + make_interval(secs => l.lease)
            WHEN l.confirmed OR l.handover IS NULL THEN l.deadline
            ELSE clock_timestamp() + %(shift)s::interval + make_interval(secs => l.handover)
        END
    FROM (SELECT token_hash, bool_or(confirm) AS confirm FROM touches GROUP BY token_hash) a
    WHERE l.token_hash = a.token_hash AND l.token_hash IN (SELECT token_hash FROM alive)
)
SELECT t.state, t.job_id, t.number, t.confirm, t.worker_id, l.token_hash IS NOT NULL AS renewed, coalesce(l.confirmed, false) AS confirmed
FROM touches a LEFT JOIN composerd.attempts t USING (token_hash) LEFT JOIN alive l USING (token_hash)
ORDER BY a.nth

-- name: copy_progress
-- Write the progress of running attempts after theirs was dropped. It follows, so that no log of statements has it.
COPY composerd.progress (job_id, body) FROM STDIN (FORMAT binary)

-- name: save_artifacts
-- Attach files to running attempts, in place of those of the same name.
INSERT INTO composerd.artifacts (job_id, name, size, sha256, place)
SELECT r.job_id, r.name, r.size, r.sha256, r.place
FROM json_to_recordset(%(artifacts)s) AS r(job_id uuid, name text, size bigint, sha256 text, place text)
ON CONFLICT (job_id, name) DO UPDATE SET size = excluded.size, sha256 = excluded.sha256, place = excluded.place

-- name: renew
-- Renew the leases of running attempts to which a file was attached. Does the same as `renew` of
-- composerd.driver.transitions.
UPDATE composerd.leases l
SET confirmed = true, deadline = clock_timestamp() + %(shift)s::interval + make_interval(secs => l.lease)
WHERE l.token_hash IN (
    SELECT token_hash FROM composerd.leases WHERE token_hash = ANY (%(hashes)s::uuid[]) ORDER BY token_hash FOR UPDATE
)
