-- Statements about workers.

-- name: seen
-- Remember that workers were seen just now. One without arch and types is only a sign of life: its stored arch and types
-- stay as they are.
INSERT INTO composerd.workers AS w (id, arch, types, channel, seen_at)
SELECT r.id, r.arch, ARRAY(SELECT json_array_elements_text(r.types)), r.channel,
    clock_timestamp() + %(shift)s::interval + make_interval(secs => 0.000001 * r.nth)
FROM (
    SELECT DISTINCT ON (id) *
    FROM ROWS FROM (json_to_recordset(%(workers)s) AS (id uuid, arch text, types json, channel text))
        WITH ORDINALITY AS r(id, arch, types, channel, nth)
    ORDER BY id, nth DESC
) r
ORDER BY r.id
ON CONFLICT (id) DO UPDATE
SET seen_at = excluded.seen_at,
    arch = CASE WHEN excluded.arch = '' AND excluded.types = '{}' THEN w.arch ELSE excluded.arch END,
    types = CASE WHEN excluded.arch = '' AND excluded.types = '{}' THEN w.types ELSE excluded.types END,
    channel = CASE WHEN excluded.arch = '' AND excluded.types = '{}' THEN w.channel ELSE excluded.channel END

-- name: workers
-- Workers that were seen lately, the latest first, with the jobs that they run.
SELECT w.id, w.arch, w.types, w.channel, w.seen_at, l.jobs
FROM composerd.workers w
LEFT JOIN (
    SELECT worker_id, array_agg(job_id ORDER BY job_id) AS jobs
    FROM composerd.leases
    WHERE worker_id IS NOT NULL
    GROUP BY worker_id
) l ON l.worker_id = w.id
WHERE w.seen_at >= clock_timestamp() + %(shift)s::interval - make_interval(secs => %(within)s)
    AND (%(ids)s::uuid[] IS NULL OR w.id = ANY (%(ids)s::uuid[]))
ORDER BY w.seen_at DESC, w.id DESC

-- name: forget_workers
-- Delete all workers except the given number of those that were seen last.
DELETE FROM composerd.workers
WHERE id IN (SELECT id FROM composerd.workers ORDER BY seen_at DESC OFFSET %(most)s)
