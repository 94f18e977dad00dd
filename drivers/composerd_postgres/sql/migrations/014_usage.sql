-- What the jobs of each channel use, so that nobody has to count it: jobs by state, bytes of payloads, bytes of files. As before a
-- trigger keeps the numbers, whoever changes the jobs, servers of earlier versions too. A row is of one channel and one session, so
-- that no session waits for another one; a number in it may be negative, and only the sums mean something. Servers add the rows of
-- a channel together now and then, in one of slot 0.
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

-- Counts the jobs again, which is only necessary if somebody changed them while triggers were off.
CREATE OR REPLACE FUNCTION composerd.recount() RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    LOCK TABLE composerd.jobs IN SHARE ROW EXCLUSIVE MODE;
    UPDATE composerd.jobs j
    SET result_size = s.result_size, files_size = s.files_size
    FROM (
        SELECT o.id, CASE WHEN o.state IN ('finished', 'failed') THEN coalesce(octet_length(r.body), 0) END::bigint AS result_size,
            coalesce(f.size, 0) AS files_size
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

-- A function and its trigger for each kind of change, which differ only in the rows that they count.
DROP FUNCTION composerd.count_jobs();
DO $create$
DECLARE
    kind record;
BEGIN
    FOR kind IN
        SELECT * FROM (
            VALUES ('inserted', 'INSERT', 'NEW TABLE AS after', 'SELECT 1 AS one, * FROM after'),
                ('deleted', 'DELETE', 'OLD TABLE AS before', 'SELECT -1 AS one, * FROM before'),
                (
                    'updated', 'UPDATE', 'OLD TABLE AS before NEW TABLE AS after',
                    'SELECT 1 AS one, * FROM after UNION ALL SELECT -1, * FROM before'
                )
        ) k(name, event, tables, rows)
    LOOP
        EXECUTE replace(replace(replace(replace(
            $trigger$
            CREATE FUNCTION composerd.count_{name}() RETURNS trigger
            LANGUAGE plpgsql
            AS $$
            BEGIN
                INSERT INTO composerd.counts AS c (
                    channel, slot, waiting, ready, running, finished, failed, canceled, payloads, files
                )
                SELECT n.*
                FROM (
                    SELECT channel, pg_backend_pid(), coalesce(sum(one) FILTER (WHERE state = 'waiting'), 0) AS waiting,
                        coalesce(sum(one) FILTER (WHERE state = 'ready'), 0) AS ready,
                        coalesce(sum(one) FILTER (WHERE state = 'running'), 0) AS running,
                        coalesce(sum(one) FILTER (WHERE state = 'finished'), 0) AS finished,
                        coalesce(sum(one) FILTER (WHERE state = 'failed'), 0) AS failed,
                        coalesce(sum(one) FILTER (WHERE state = 'canceled'), 0) AS canceled,
                        sum(one * (args_size + coalesce(result_size, 0))) AS payloads, sum(one * files_size) AS files
                    FROM ({rows}) changed
                    GROUP BY channel
                ) n
                WHERE waiting <> 0 OR ready <> 0 OR running <> 0 OR finished <> 0 OR failed <> 0 OR canceled <> 0
                    OR payloads <> 0 OR files <> 0
                ON CONFLICT (channel, slot) DO UPDATE
                SET waiting = c.waiting + excluded.waiting, ready = c.ready + excluded.ready,
                    running = c.running + excluded.running, finished = c.finished + excluded.finished,
                    failed = c.failed + excluded.failed, canceled = c.canceled + excluded.canceled,
                    payloads = c.payloads + excluded.payloads, files = c.files + excluded.files;
                RETURN NULL;
            END
            $$;
            CREATE TRIGGER count_{name} AFTER {event} ON composerd.jobs REFERENCING {tables}
                FOR EACH STATEMENT EXECUTE FUNCTION composerd.count_{name}();
            $trigger$,
            '{name}', kind.name), '{event}', kind.event), '{tables}', kind.tables), '{rows}', kind.rows);
    END LOOP;
END
$create$;

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
    SET result_size = coalesce((SELECT octet_length(r.body) FROM composerd.results r WHERE r.job_id = NEW.id), 0)
    WHERE id = NEW.id;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER size_result AFTER INSERT OR UPDATE ON composerd.jobs
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.state IN ('finished', 'failed') AND NEW.result_size IS NULL)
    EXECUTE FUNCTION composerd.size_result();
