-- What follows from ends, what time brings, and how jobs leave.

-- name: lock_dependents
-- Some of those that depend on ended jobs and have not been told.
SELECT j.id
FROM composerd.jobs j
WHERE j.id IN (
    SELECT e.dependent FROM composerd.edges e WHERE e.dependency = ANY (%(ended)s::uuid[]) AND e.open LIMIT %(limit)s
)
ORDER BY j.id
FOR UPDATE

-- name: read_dependents
-- The open edges from ended jobs to dependents that are locked, with what the end of the one means for the other.
SELECT clock_timestamp() + %(shift)s::interval, {columns},
    EXISTS (SELECT FROM composerd.edges o WHERE o.dependency = j.id AND o.open),
    NULL::bigint,
    e.dependency, d.state,
    CASE WHEN j.fail_with_dependency AND d.state = 'failed'
        THEN ARRAY(SELECT f.id FROM composerd.jobs f WHERE f.id = ANY (j.dependencies) AND f.state = 'failed') END
FROM composerd.edges e
JOIN composerd.jobs d ON d.id = e.dependency
JOIN composerd.jobs j ON j.id = e.dependent
WHERE e.dependency = ANY (%(ended)s::uuid[]) AND e.dependent = ANY (%(ids)s::uuid[]) AND e.open
ORDER BY e.seq DESC

-- name: close_edges
UPDATE composerd.edges e
SET open = false
FROM json_to_recordset(%(edges)s) AS r(dependency uuid, dependent uuid)
WHERE e.dependency = r.dependency AND e.dependent = r.dependent

-- name: mark_settled
UPDATE composerd.jobs j
SET unsettled = false
WHERE j.id IN (
    SELECT s.id
    FROM composerd.jobs s
    WHERE s.id = ANY (%(ended)s::uuid[]) AND s.unsettled
        AND NOT EXISTS (SELECT FROM composerd.edges e WHERE e.dependency = s.id AND e.open)
    ORDER BY s.id
    FOR NO KEY UPDATE
)

-- name: catch_up
-- Time does not go back: should the database's clock be behind what is stored, all servers run ahead of it from now on.
WITH latest AS (
    SELECT greatest(
        (SELECT j.queued_at FROM composerd.jobs j ORDER BY j.seq DESC LIMIT 1), (SELECT max(l.began) FROM composerd.leases l)
    ) AS at
)
UPDATE composerd.clock c
SET ahead = c.ahead + (l.at - (clock_timestamp() + c.ahead + %(own)s::interval))
FROM latest l
WHERE l.at > clock_timestamp() + c.ahead + %(own)s::interval

-- name: ahead_of_clock
SELECT extract(epoch FROM ahead)::double precision FROM composerd.clock

-- name: look_ahead
-- What is due, and when more will be. Of attempts that began before %(since)s none lapses within one lease of that.
WITH lapses AS MATERIALIZED (
    SELECT l.token, l.job_id, CASE
        WHEN l.began < %(since)s
            THEN greatest(least(l.deadline, l.timeout_at), %(since)s + make_interval(secs => l.lease))
        ELSE least(l.deadline, l.timeout_at)
    END AS at
    FROM composerd.leases l
),
clock AS (SELECT clock_timestamp() + %(shift)s::interval AS now)
SELECT c.now,
    ARRAY(SELECT j.id FROM composerd.jobs j WHERE j.unsettled ORDER BY j.finished_at LIMIT %(limit)s),
    (SELECT min(not_before) FROM composerd.jobs WHERE state = 'waiting' AND pending = 0 AND not_before IS NOT NULL),
    ARRAY(SELECT l.token FROM lapses l WHERE l.at <= c.now ORDER BY l.at LIMIT %(limit)s),
    (SELECT min(l.at) FROM lapses l WHERE l.at > c.now),
    (SELECT extract(epoch FROM ahead)::double precision FROM composerd.clock)
FROM clock c

-- name: release_delayed
UPDATE composerd.jobs j
SET state = 'ready'
WHERE j.id IN (
    SELECT d.id
    FROM composerd.jobs d
    WHERE d.state = 'waiting' AND d.pending = 0 AND d.not_before <= %(now)s
    ORDER BY d.not_before
    LIMIT %(limit)s
    FOR NO KEY UPDATE SKIP LOCKED
)
RETURNING j.id, j.channel, j.type, j.arch, -j.priority, j.place

-- name: read_lapsed
-- Attempts that had lapsed at a look and whose jobs are locked now: have they still?
SELECT l.token, l.confirmed OR l.began < %(since)s,
    l.timeout_at IS NOT NULL AND CASE
        WHEN l.began < %(since)s THEN greatest(l.timeout_at, %(since)s + make_interval(secs => l.lease))
        ELSE l.timeout_at
    END <= %(now)s,
    CASE
        WHEN l.began < %(since)s
            THEN greatest(least(l.deadline, l.timeout_at), %(since)s + make_interval(secs => l.lease))
        ELSE least(l.deadline, l.timeout_at)
    END <= %(now)s
FROM composerd.leases l
WHERE l.token = ANY (%(tokens)s::uuid[])

-- name: needed
-- Which of these an unended job depends on.
SELECT DISTINCT e.dependency
FROM composerd.edges e
JOIN composerd.jobs d ON d.id = e.dependent
WHERE e.dependency = ANY (%(ids)s::uuid[]) AND d.state IN ('waiting', 'ready', 'running')

-- name: lock_expired
SELECT j.id
FROM composerd.jobs j
WHERE j.purge_at <= statement_timestamp() + %(shift)s::interval
ORDER BY j.purge_at
LIMIT %(limit)s
FOR UPDATE SKIP LOCKED

-- name: postpone
UPDATE composerd.jobs
SET purge_at = clock_timestamp() + %(shift)s::interval + interval '1 minute'
WHERE id = ANY (%(needed)s::uuid[])

-- name: delete_jobs
-- With all that is theirs. Those that depended on them keep naming them. A hundred jobs have at most some hundreds of edges,
-- which the planner cannot know: it would rather read through a table of moderate size.
SET LOCAL enable_seqscan = off;
WITH gone AS (
    DELETE FROM composerd.jobs WHERE id = ANY (%(gone)s::uuid[]) RETURNING id, dependencies
),
edges_in AS (
    DELETE FROM composerd.edges e
    USING (SELECT unnest(dependencies) AS dependency, id FROM gone) g
    WHERE e.dependency = g.dependency AND e.dependent = g.id
),
args AS (DELETE FROM composerd.args WHERE job_id = ANY (%(gone)s::uuid[])),
results AS (DELETE FROM composerd.results WHERE job_id = ANY (%(gone)s::uuid[])),
attempts AS (DELETE FROM composerd.attempts WHERE job_id = ANY (%(gone)s::uuid[])),
artifacts AS (DELETE FROM composerd.artifacts WHERE job_id = ANY (%(gone)s::uuid[]))
DELETE FROM composerd.edges WHERE dependency = ANY (%(gone)s::uuid[])
