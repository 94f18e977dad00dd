-- Statements that propagate ends, process what is due, and delete jobs.

-- name: lock_dependents
-- Lock some of the dependents of ended jobs to which the end was not propagated yet.
SELECT j.id
FROM composerd.jobs j
WHERE j.id IN (
    SELECT e.dependent FROM composerd.edges e WHERE e.dependency = ANY (%(ended)s::uuid[]) AND e.open LIMIT %(limit)s
)
ORDER BY j.id
FOR UPDATE

-- name: read_dependents
-- Read the open edges from ended jobs to dependents after these were locked. `failed` are all failed dependencies of a
-- dependent that fails because of this edge.
SELECT clock_timestamp() + %(shift)s::interval AS now, {columns},
    EXISTS (SELECT FROM composerd.edges o WHERE o.dependency = j.id AND o.open) AS has_waiting_dependents,
    e.dependency, d.state AS dependency_state,
    CASE WHEN j.fail_with_dependency AND d.state = 'failed'
        THEN ARRAY(SELECT f.id FROM composerd.jobs f WHERE f.id = ANY (j.dependencies) AND f.state = 'failed') END AS failed
FROM composerd.edges e
JOIN composerd.jobs d ON d.id = e.dependency
JOIN composerd.jobs j ON j.id = e.dependent
WHERE e.dependency = ANY (%(ended)s::uuid[]) AND e.dependent = ANY (%(ids)s::uuid[]) AND e.open
ORDER BY e.seq DESC

-- name: close_edges
-- Mark edges along which the end was propagated.
UPDATE composerd.edges e
SET open = false
FROM json_to_recordset(%(edges)s) AS r(dependency uuid, dependent uuid)
WHERE e.dependency = r.dependency AND e.dependent = r.dependent

-- name: mark_propagated
-- Unmark those of the ended jobs that have no open edge left.
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

-- name: advance_clock
-- Time must not go back. If the database's clock is behind a time that is stored, which happens after a failover to
-- another machine, let the clocks of all servers run ahead of it from now on.
WITH latest AS (
    SELECT greatest(
        (SELECT j.queued_at FROM composerd.jobs j ORDER BY j.seq DESC LIMIT 1), (SELECT max(l.began) FROM composerd.leases l)
    ) AS at
)
UPDATE composerd.clock c
SET ahead = c.ahead + (l.at - (clock_timestamp() + c.ahead + %(own)s::interval))
FROM latest l
WHERE l.at > clock_timestamp() + c.ahead + %(own)s::interval

-- name: clock
-- The seconds by which the clocks of all servers are ahead of the database's.
SELECT extract(epoch FROM ahead)::double precision AS ahead FROM composerd.clock

-- name: now
-- The time.
SELECT clock_timestamp() + %(shift)s::interval AS now

-- name: find_due
-- Find everything that is due, and the time when something else will be. An attempt that began before `since` has a full
-- lease from then, over its job's timeout too. Applies the rules of `resume` and `expiry` of composerd.driver.transitions;
-- these decide why an attempt ends, and if it still does, when its job is locked.
WITH expiries AS MATERIALIZED (
    SELECT l.token, l.job_id, CASE
        WHEN l.began < %(since)s
            THEN greatest(least(l.deadline, l.timeout_at), %(since)s + make_interval(secs => l.lease))
        ELSE least(l.deadline, l.timeout_at)
    END AS at
    FROM composerd.leases l
),
clock AS (SELECT clock_timestamp() + %(shift)s::interval AS now)
SELECT c.now,
    ARRAY(SELECT j.id FROM composerd.jobs j WHERE j.unsettled ORDER BY j.finished_at LIMIT %(limit)s) AS unpropagated,
    (
        SELECT min(not_before) FROM composerd.jobs WHERE state = 'waiting' AND pending = 0 AND not_before IS NOT NULL
    ) AS delayed_until,
    ARRAY(SELECT e.token FROM expiries e WHERE e.at <= c.now ORDER BY e.at LIMIT %(limit)s) AS expired,
    (SELECT min(e.at) FROM expiries e WHERE e.at > c.now) AS next_expiry,
    (SELECT extract(epoch FROM ahead)::double precision FROM composerd.clock) AS ahead
FROM clock c

-- name: start_delayed
-- Make jobs ready whose time has come. Does the same as `start_delayed` of composerd.driver.transitions.
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
RETURNING j.id, j.channel, j.type, j.arch, j.priority, j.place AS position

-- name: read_leases
-- The leases of attempts whose jobs are locked.
SELECT l.token, l.lease, l.handover, l.confirmed, l.began, l.timeout_at, l.deadline
FROM composerd.leases l
WHERE l.token = ANY (%(tokens)s::uuid[])

-- name: needed
-- Those of the given jobs on which an unended job depends.
SELECT DISTINCT e.dependency AS id
FROM composerd.edges e
JOIN composerd.jobs d ON d.id = e.dependent
WHERE e.dependency = ANY (%(ids)s::uuid[]) AND d.state IN ('waiting', 'ready', 'running')

-- name: lock_expired
-- Lock some jobs whose retention is over, and that no other server is deleting.
SELECT j.id, j.state
FROM composerd.jobs j
WHERE j.purge_at <= statement_timestamp() + %(shift)s::interval
ORDER BY j.purge_at
LIMIT %(limit)s
FOR UPDATE SKIP LOCKED

-- name: postpone
-- Look again later at jobs whose retention is over, but which are still needed.
UPDATE composerd.jobs
SET purge_at = clock_timestamp() + %(shift)s::interval + interval '1 minute'
WHERE id = ANY (%(postponed)s::uuid[])

-- name: delete_jobs
-- Delete jobs and all that belongs to them. The jobs that depended on them keep naming them.
-- A hundred jobs have a few hundred edges at most, but the planner cannot know that: it would rather read a whole table of
-- moderate size, hence the setting.
SET LOCAL enable_seqscan = off;
WITH deleted AS (
    DELETE FROM composerd.jobs WHERE id = ANY (%(deleted)s::uuid[]) RETURNING id, dependencies
),
edges_to_dependencies AS (
    DELETE FROM composerd.edges e
    USING (SELECT unnest(dependencies) AS dependency, id FROM deleted) d
    WHERE e.dependency = d.dependency AND e.dependent = d.id
),
args AS (DELETE FROM composerd.args WHERE job_id = ANY (%(deleted)s::uuid[])),
results AS (DELETE FROM composerd.results WHERE job_id = ANY (%(deleted)s::uuid[])),
attempts AS (DELETE FROM composerd.attempts WHERE job_id = ANY (%(deleted)s::uuid[])),
artifacts AS (DELETE FROM composerd.artifacts WHERE job_id = ANY (%(deleted)s::uuid[]))
DELETE FROM composerd.edges WHERE dependency = ANY (%(deleted)s::uuid[])
