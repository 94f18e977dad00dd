-- What the jobs of each channel use, so that nobody has to count it: jobs by state, bytes of payloads, bytes of files. As before a
-- trigger keeps the numbers, whoever changes the jobs, servers of earlier versions too. A row is of one channel and one session, so
-- that no session waits for another one; a number in it may be negative, and only the sums mean something. `composerd.fold_counts`
-- adds the rows of a channel together now and then.
--
-- All that a job uses is in its row: `result_size` is NULL while it has no result, `files_size` is kept by a trigger.
DROP TRIGGER count_inserted ON composerd.jobs;
DROP TRIGGER count_updated ON composerd.jobs;
DROP TRIGGER count_deleted ON composerd.jobs;

ALTER TABLE composerd.jobs
    ADD COLUMN result_size bigint,
    ADD COLUMN files_size bigint NOT NULL DEFAULT 0;

DELETE FROM composerd.counts;
ALTER TABLE composerd.counts
    ADD COLUMN channel text COLLATE "C" NOT NULL,
    ADD COLUMN payloads bigint NOT NULL,
    ADD COLUMN files bigint NOT NULL,
    DROP CONSTRAINT counts_pkey,
    ADD PRIMARY KEY (channel, slot);

CREATE TYPE composerd.change AS (channel text, state text, jobs bigint, payloads bigint, files bigint);

CREATE OR REPLACE FUNCTION composerd.count_jobs() RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    changes composerd.change[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        changes := ARRAY(
            SELECT ROW(channel, state, count(*), sum(args_size + coalesce(result_size, 0)), sum(files_size))::composerd.change
            FROM after
            GROUP BY channel, state
        );
    ELSIF TG_OP = 'UPDATE' THEN
        changes := ARRAY(
            SELECT ROW(channel, state, sum(one), sum(one * (args_size + coalesce(result_size, 0))), sum(one * files_size))::composerd.change
            FROM (
                SELECT 1 AS one, channel, state, args_size, result_size, files_size FROM after
                UNION ALL
                SELECT -1, channel, state, args_size, result_size, files_size FROM before
            ) c
            GROUP BY channel, state
            HAVING sum(one) <> 0 OR sum(one * coalesce(result_size, 0)) <> 0 OR sum(one * files_size) <> 0
        );
    ELSE
        changes := ARRAY(
            SELECT ROW(channel, state, -count(*), -sum(args_size + coalesce(result_size, 0)), -sum(files_size))::composerd.change
            FROM before
            GROUP BY channel, state
        );
    END IF;
    IF changes <> '{}' THEN
        INSERT INTO composerd.counts AS c (
            channel, slot, waiting, ready, running, finished, failed, canceled, payloads, files
        )
        SELECT channel, pg_backend_pid(),
            coalesce(sum(jobs) FILTER (WHERE state = 'waiting'), 0), coalesce(sum(jobs) FILTER (WHERE state = 'ready'), 0),
            coalesce(sum(jobs) FILTER (WHERE state = 'running'), 0), coalesce(sum(jobs) FILTER (WHERE state = 'finished'), 0),
            coalesce(sum(jobs) FILTER (WHERE state = 'failed'), 0), coalesce(sum(jobs) FILTER (WHERE state = 'canceled'), 0),
            sum(payloads), sum(files)
        FROM unnest(changes)
        GROUP BY channel
        ON CONFLICT (channel, slot) DO UPDATE
        SET waiting = c.waiting + excluded.waiting, ready = c.ready + excluded.ready, running = c.running + excluded.running,
            finished = c.finished + excluded.finished, failed = c.failed + excluded.failed,
            canceled = c.canceled + excluded.canceled, payloads = c.payloads + excluded.payloads,
            files = c.files + excluded.files;
    END IF;
    RETURN NULL;
END
$$;

-- Adds up to so many rows of sessions to the row of their channel that belongs to none, without waiting for a session that is
-- changing its row, and removes rows that count nothing.
CREATE FUNCTION composerd.fold_counts(most integer) RETURNS void
LANGUAGE sql
AS $$
WITH folded AS (
    DELETE FROM composerd.counts
    WHERE (channel, slot) IN (
        SELECT channel, slot FROM composerd.counts WHERE slot <> 0 ORDER BY channel, slot LIMIT most FOR UPDATE SKIP LOCKED
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
WHERE slot = 0 AND (waiting, ready, running, finished, failed, canceled, payloads, files) = (0, 0, 0, 0, 0, 0, 0, 0);
$$;

-- Counts the jobs again, which is only necessary if somebody changed them while triggers were off.
CREATE OR REPLACE FUNCTION composerd.recount() RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    LOCK TABLE composerd.jobs IN SHARE ROW EXCLUSIVE MODE;
    UPDATE composerd.jobs j
    SET result_size = s.result_size, files_size = s.files_size
    FROM (
        SELECT o.id, octet_length(r.body)::bigint AS result_size, coalesce(f.size, 0) AS files_size
        FROM composerd.jobs o
        LEFT JOIN composerd.results r ON r.job_id = o.id
        LEFT JOIN (SELECT job_id, sum(size)::bigint AS size FROM composerd.artifacts GROUP BY job_id) f ON f.job_id = o.id
    ) s
    WHERE s.id = j.id AND (j.result_size, j.files_size) IS DISTINCT FROM (s.result_size, s.files_size);
    DELETE FROM composerd.counts;
    INSERT INTO composerd.counts (channel, slot, waiting, ready, running, finished, failed, canceled, payloads, files)
    SELECT channel, 0, count(*) FILTER (WHERE state = 'waiting'), count(*) FILTER (WHERE state = 'ready'),
        count(*) FILTER (WHERE state = 'running'), count(*) FILTER (WHERE state = 'finished'),
        count(*) FILTER (WHERE state = 'failed'), count(*) FILTER (WHERE state = 'canceled'),
        sum(args_size + coalesce(result_size, 0)), sum(files_size)
    FROM composerd.jobs
    GROUP BY channel; -- an empty storage takes the rows of another one by logical replication
END
$$;
SELECT composerd.recount();

CREATE TRIGGER count_inserted AFTER INSERT ON composerd.jobs REFERENCING NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION composerd.count_jobs();
CREATE TRIGGER count_updated AFTER UPDATE ON composerd.jobs REFERENCING OLD TABLE AS before NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION composerd.count_jobs();
CREATE TRIGGER count_deleted AFTER DELETE ON composerd.jobs REFERENCING OLD TABLE AS before
    FOR EACH STATEMENT EXECUTE FUNCTION composerd.count_jobs();

-- Adds the files that jobs got, or subtracts those that they lost. Whoever changes the files of a job has locked it.
CREATE FUNCTION composerd.size_files() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        UPDATE composerd.jobs j SET files_size = j.files_size + f.size
        FROM (SELECT job_id, sum(size)::bigint AS size FROM after GROUP BY job_id) f
        WHERE j.id = f.job_id AND f.size <> 0;
    ELSIF TG_OP = 'DELETE' THEN
        UPDATE composerd.jobs j SET files_size = j.files_size - f.size
        FROM (SELECT job_id, sum(size)::bigint AS size FROM before GROUP BY job_id) f
        WHERE j.id = f.job_id AND f.size <> 0;
    ELSE
        UPDATE composerd.jobs j SET files_size = j.files_size + f.size
        FROM (
            SELECT job_id, sum(size)::bigint AS size
            FROM (SELECT job_id, size FROM after UNION ALL SELECT job_id, -size FROM before) c
            GROUP BY job_id
        ) f
        WHERE j.id = f.job_id AND f.size <> 0;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER size_inserted AFTER INSERT ON composerd.artifacts REFERENCING NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION composerd.size_files();
CREATE TRIGGER size_updated AFTER UPDATE ON composerd.artifacts REFERENCING OLD TABLE AS before NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION composerd.size_files();
CREATE TRIGGER size_deleted AFTER DELETE ON composerd.artifacts REFERENCING OLD TABLE AS before
    FOR EACH STATEMENT EXECUTE FUNCTION composerd.size_files();

-- Servers write the size of a result with the end of its job. One of an earlier version does not, so it is added at the commit.
CREATE FUNCTION composerd.size_result() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE composerd.jobs
    SET result_size = (SELECT octet_length(r.body) FROM composerd.results r WHERE r.job_id = NEW.id)
    WHERE id = NEW.id;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER size_result AFTER INSERT OR UPDATE ON composerd.jobs
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.state IN ('finished', 'failed') AND NEW.result_size IS NULL)
    EXECUTE FUNCTION composerd.size_result();
