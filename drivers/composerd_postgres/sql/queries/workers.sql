-- Statements about workers.

-- name: seen
-- Remember that workers were seen just now, each once. One without arch and types is only a sign of life: its stored arch and types
-- stay as they are. So does what it sent later than this. A worker of another client is left as it is for an hour, and one that has
-- signed off until it describes itself again. (If the clock was set back, `sent_at` may be in the future; then it does not count.)
INSERT INTO composerd.workers AS w (id, arch, types, channel, client, problem, seen_at, sent_at)
SELECT r.id, r.arch, ARRAY(SELECT json_array_elements_text(r.types)), r.channel, r.client, r.problem,
    n.now + make_interval(secs => 0.000001 * r.nth),
    CASE WHEN r.arch = '' AND json_array_length(r.types) = 0 AND r.problem IS NULL THEN '-infinity'
        ELSE n.now - make_interval(secs => r.age) END
FROM ROWS FROM (json_to_recordset(%(workers)s) AS (
        id uuid, arch text, types json, channel text, client text, problem text, age double precision
    )) WITH ORDINALITY AS r(id, arch, types, channel, client, problem, age, nth),
    (SELECT clock_timestamp() + %(shift)s::interval AS now OFFSET 0) n
ORDER BY r.id
ON CONFLICT (id) DO UPDATE
SET seen_at = excluded.seen_at,
    client = CASE WHEN excluded.client = '' THEN w.client ELSE excluded.client END,
    signed_off = false,
    (arch, types, channel, problem, sent_at) = (
        SELECT
            CASE WHEN s.newer AND s.described THEN excluded.arch ELSE w.arch END,
            CASE WHEN s.newer AND s.described THEN excluded.types ELSE w.types END,
            CASE WHEN s.newer AND s.described THEN excluded.channel ELSE w.channel END,
            CASE WHEN s.newer AND (s.described OR excluded.problem IS NOT NULL) THEN excluded.problem ELSE w.problem END,
            CASE WHEN s.newer THEN excluded.sent_at ELSE w.sent_at END
        FROM (
            SELECT excluded.sent_at >= w.sent_at OR w.sent_at > excluded.seen_at OR w.signed_off AS newer,
                excluded.arch <> '' OR excluded.types <> '{}' AS described
        ) s
    )
WHERE CASE
    WHEN excluded.client NOT IN ('', w.client) AND w.client <> '' THEN w.signed_off OR w.seen_at <= excluded.seen_at - interval '1 hour'
    WHEN w.signed_off THEN (excluded.arch <> '' OR excluded.types <> '{}')
        AND (excluded.sent_at > w.sent_at OR w.sent_at > excluded.seen_at)
    ELSE true
END

-- name: sign_off
-- Show workers no longer, each once. The row stays, so that no earlier news of a worker shows it again. A worker of another client is
-- left as it is.
INSERT INTO composerd.workers AS w (id, arch, types, channel, client, seen_at, sent_at, signed_off)
SELECT r.id, '', '{}', '', r.client, n.now, n.now, true
FROM json_to_recordset(%(workers)s) AS r(id uuid, client text), (SELECT clock_timestamp() + %(shift)s::interval AS now OFFSET 0) n
ORDER BY r.id
ON CONFLICT (id) DO UPDATE
SET arch = '', types = '{}', channel = '', problem = NULL, seen_at = excluded.seen_at, sent_at = excluded.sent_at, signed_off = true,
    client = CASE WHEN excluded.client = '' THEN w.client ELSE excluded.client END
WHERE excluded.client IN ('', w.client) OR w.client = ''

-- name: workers
-- Workers that were seen lately, the latest first, with the jobs that they run: all of them, those with the given ids, or a page of
-- them after a worker, without those that described themselves in another channel than the given one. What the workers of a page take is limited too, in bytes.
WITH found AS MATERIALIZED (
    SELECT w.*, row_number() OVER latest AS nth, sum(100 + octet_length(w.said)) OVER latest AS size
    FROM (
        SELECT *, array_to_string(types, '", "') || coalesce(problem, '') AS said
        FROM composerd.workers
        WHERE NOT signed_off AND seen_at >= clock_timestamp() + %(shift)s::interval - make_interval(secs => %(within)s)
            AND (%(ids)s::uuid[] IS NULL OR id = ANY (%(ids)s::uuid[]))
            AND (%(channel)s::text IS NULL OR channel = %(channel)s OR (arch = '' AND types = '{}'))
            AND (%(after)s::uuid IS NULL OR (seen_at, id) < (%(seen)s::timestamptz, %(after)s::uuid))
        ORDER BY seen_at DESC, id DESC
        LIMIT %(limit)s
    ) w
    WINDOW latest AS (ORDER BY w.seen_at DESC, w.id DESC)
)
SELECT f.id, f.arch, f.types, f.channel, f.client, f.problem, f.seen_at, l.jobs, (SELECT count(*) FROM found) AS found
FROM found f
LEFT JOIN (
    SELECT worker_id, array_agg(job_id ORDER BY job_id) AS jobs
    FROM composerd.leases
    WHERE worker_id IS NOT NULL
    GROUP BY worker_id
) l ON l.worker_id = f.id
WHERE f.nth = 1 OR f.size <= %(most)s
ORDER BY f.seen_at DESC, f.id DESC

-- name: forget_workers
-- Let the workers of all clients take no more bytes than there are for them. A client that takes less than its share keeps its
-- workers, and what it leaves is shared by the others, of which each loses those of its workers that were not seen for longest.
WITH sizes AS MATERIALIZED (
    SELECT w.id, w.client, sum(pg_column_size(w)) OVER (PARTITION BY w.client ORDER BY w.seen_at DESC, w.id) AS size
    FROM composerd.workers w
),
clients AS (SELECT client, max(size) AS size FROM sizes GROUP BY client),
shares AS (
    SELECT size, client,
        (%(most)s - sum(size) OVER smaller + size) / (count(*) OVER () - row_number() OVER smaller + 1) AS share
    FROM clients
    WINDOW smaller AS (ORDER BY size, client)
)
DELETE FROM composerd.workers
WHERE id IN (SELECT s.id FROM sizes s WHERE s.size > (SELECT share FROM shares WHERE size > share ORDER BY size, client LIMIT 1))
