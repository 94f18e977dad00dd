-- Statements that propagate ends, process what is due, and delete jobs.

-- name: lock_dependents
-- Lock the next dependents of ended jobs to which the end was not propagated yet, and on to the dependents of those that end with
-- it: as many as are reached along `limit` edges, and fewer if many dependencies have to be read to say which of them have failed.
-- They are reached breadth first, and of one job the latest first, as in memory, so the result is the same wherever it is cut.
-- The edges are remembered until the end of the transaction, for the next statement, which sees what changed during the wait for
-- the locks. The planner cannot know how few rows there are: it would rather read whole tables, hence the settings.
SET LOCAL enable_seqscan = off;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
WITH RECURSIVE reached AS (
    SELECT d.id AS dependency, e.dependent, {weight} AS weight, {ends_as} AS ends
    FROM (
        SELECT s.id, s.state AS ends
        FROM unnest(%(ended)s::uuid[]) WITH ORDINALITY i(id, nth)
        JOIN composerd.jobs s ON s.id = i.id AND s.unsettled
        ORDER BY i.nth
    ) d
    CROSS JOIN LATERAL (
        SELECT o.dependent FROM composerd.edges o WHERE o.dependency = d.id AND o.open ORDER BY o.seq DESC
    ) e
    CROSS JOIN LATERAL (SELECT * FROM composerd.jobs k WHERE k.id = e.dependent LIMIT 1) j
    UNION
    SELECT d.dependent, e.dependent, {weight}, {ends_as}
    FROM reached d
    CROSS JOIN LATERAL (
        SELECT o.dependent FROM composerd.edges o WHERE o.dependency = d.dependent AND o.open ORDER BY o.seq DESC
    ) e
    CROSS JOIN LATERAL (SELECT * FROM composerd.jobs k WHERE k.id = e.dependent LIMIT 1) j
    WHERE d.ends IS NOT NULL
),
first AS MATERIALIZED (
    SELECT dependency, dependent, sum(weight) OVER (ROWS UNBOUNDED PRECEDING) AS weight, row_number() OVER () AS nth
    FROM (SELECT * FROM reached LIMIT %(limit)s) r
),
chosen AS MATERIALIZED (SELECT dependency, dependent FROM first WHERE weight <= %(most)s OR nth = 1),
locked AS MATERIALIZED (
    SELECT FROM composerd.jobs j WHERE j.id IN (SELECT dependent FROM chosen) ORDER BY j.id FOR UPDATE
)
SELECT set_config('composerd_locked.dependencies', coalesce(array_agg(c.dependency)::text, '{}'), true),
    set_config('composerd_locked.dependents', coalesce(array_agg(c.dependent)::text, '{}'), true),
    set_config('composerd_locked.more', (count(*) >= %(limit)s OR count(*) < (SELECT count(*) FROM first))::text, true)
FROM (SELECT count(*) FROM locked) l
LEFT JOIN chosen c ON true

-- name: weight
-- Part of the statement above: how many rows have to be read for an edge.
1 + CASE WHEN j.fail_with_dependency THEN cardinality(j.dependencies) ELSE 0 END

-- name: ends_as
-- Part of the statement above: the state in which a dependent ends because its dependency does, if it ends. The function
-- `dependency_ended` of composerd.driver.transitions decides that again when the dependent is locked.
CASE
    WHEN j.state <> 'waiting' THEN NULL
    WHEN d.ends = 'canceled' THEN 'canceled'
    WHEN d.ends = 'failed' AND j.fail_with_dependency THEN 'failed'
END

-- name: read_dependents
-- Read the dependents that were locked, those of their dependencies to which they are joined by the edges that were chosen and
-- are still open, and the states of these. `failed` are all failed dependencies of a dependent that may fail with them.
SELECT clock_timestamp() + %(shift)s::interval AS now, {listed_columns},
    CASE WHEN j.fail_with_dependency THEN j.dependencies ELSE '{}' END AS dependencies,
    EXISTS (SELECT FROM composerd.edges o WHERE o.dependency = j.id AND o.open) AS has_waiting_dependents,
    c.ends, c.states, current_setting('composerd_locked.more')::boolean AS more,
    CASE WHEN j.fail_with_dependency
        THEN ARRAY(SELECT f.id FROM composerd.jobs f WHERE f.id = ANY (j.dependencies) AND f.state = 'failed') END AS failed
FROM (
    SELECT e.dependent, array_agg(e.dependency) AS ends, array_agg(d.state) AS states
    FROM unnest(
        current_setting('composerd_locked.dependencies')::uuid[], current_setting('composerd_locked.dependents')::uuid[]
    ) c(dependency, dependent)
    JOIN composerd.edges e ON e.dependency = c.dependency AND e.dependent = c.dependent AND e.open
    JOIN composerd.jobs d ON d.id = e.dependency
    GROUP BY e.dependent
) c
JOIN composerd.jobs j ON j.id = c.dependent
ORDER BY j.seq DESC

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

-- name: now
-- The time.
SELECT clock_timestamp() + %(shift)s::interval AS now

-- name: find_due
-- Find everything that is due, and the time when something else will be. Leases are only read if `expiring` is true. Applies
-- the rule `expires_at` of composerd.driver.transitions; `expiry` decides why an attempt ends, and if it still does, when its
-- job is locked.
WITH expiries AS MATERIALIZED (
    SELECT l.token_hash, least(l.deadline, l.timeout_at) AS at FROM composerd.leases l WHERE %(expiring)s
),
clock AS (
    SELECT clock_timestamp() + %(shift)s::interval AS now, c.attended, c.disputed_since, c.jump, c.jumped_at
    FROM composerd.clock c
)
SELECT c.*,
    ARRAY(SELECT j.id FROM composerd.jobs j WHERE j.unsettled ORDER BY j.finished_at LIMIT %(limit)s) AS unpropagated,
    (
        SELECT min(not_before) FROM composerd.jobs WHERE state = 'waiting' AND pending = 0 AND not_before IS NOT NULL
    ) AS delayed_until,
    EXISTS (SELECT FROM composerd.leases) AS running,
    ARRAY(SELECT e.token_hash FROM expiries e WHERE e.at <= c.now ORDER BY e.at LIMIT %(limit)s) AS expired,
    (SELECT min(e.at) FROM expiries e WHERE e.at > c.now) AS next_expiry
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
-- The leases of attempts whose jobs are locked. They are not renewed until the transaction ends, which is soon even if this
-- server is stopped now: heartbeats wait for it.
SET LOCAL idle_in_transaction_session_timeout = '5s';
SELECT l.token_hash, l.lease, l.handover, l.confirmed, l.began, l.timeout_at, l.deadline
FROM composerd.leases l
WHERE l.token_hash = ANY (%(hashes)s::uuid[])
ORDER BY l.token_hash
FOR UPDATE

-- name: needed
-- Those of the given jobs on which an unended job depends, and those that have too many dependents to be deleted at once.
-- Dependents are looked up one by one until one is found: the planner would rather read the whole table.
SET LOCAL enable_seqscan = off;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SELECT j.id, n.needed, NOT n.needed AND (
        SELECT count(*) FROM (SELECT FROM composerd.edges e WHERE e.dependency = j.id LIMIT %(edges)s) e
    ) >= %(edges)s AS large
FROM unnest(%(ids)s::uuid[]) j(id)
CROSS JOIN LATERAL (
    SELECT EXISTS (
        SELECT
        FROM composerd.edges e
        CROSS JOIN LATERAL (SELECT d.state FROM composerd.jobs d WHERE d.id = e.dependent LIMIT 1) d
        WHERE e.dependency = j.id AND d.state IN ('waiting', 'ready', 'running')
    ) AS needed
) n

-- name: trim_edges
-- Delete some of the edges to the dependents of jobs that will be deleted.
DELETE FROM composerd.edges
WHERE (dependency, dependent) IN (
    SELECT dependency, dependent FROM composerd.edges WHERE dependency = ANY (%(large)s::uuid[]) LIMIT %(edges)s
)

-- name: lock_expired
-- Lock some jobs whose retention is over, that ended after `kept_before`, that no other server is deleting, and that have no more
-- edges together than can be deleted at once; but the first of them in any case. Jobs that ended before that are read too, but
-- no more than `limit`. `more` is true if there are perhaps others.
SET LOCAL enable_seqscan = off;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SELECT j.id, j.state, c.more
FROM (
    SELECT e.id, e.finished_at, e.nth, sum(e.edges) OVER (ORDER BY e.nth) AS edges,
        count(*) OVER () >= %(limit)s OR sum(e.edges) OVER () > %(edges)s AS more
    FROM (
        SELECT o.id, o.finished_at, row_number() OVER (ORDER BY o.purge_at, o.id) AS nth,
            cardinality(o.dependencies)
                + (SELECT count(*) FROM (SELECT FROM composerd.edges e WHERE e.dependency = o.id LIMIT %(edges)s) e) AS edges
        FROM (
            SELECT *
            FROM composerd.jobs
            WHERE purge_at BETWEEN %(kept_before)s AND %(now)s
            ORDER BY purge_at
            LIMIT %(limit)s
        ) o
    ) e
) c
JOIN composerd.jobs j ON j.id = c.id
WHERE c.finished_at >= %(kept_before)s AND (c.edges <= %(edges)s OR c.nth = 1)
FOR UPDATE OF j SKIP LOCKED

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
