-- How many jobs are in each state, so that nobody has to count them. A trigger keeps the numbers, whoever changes the jobs. Each
-- session adds to a row of its own as a rule: a row that all sessions shared would let their transactions wait for each other. So a
-- number in a row may be negative, and only the sums mean something.
CREATE TABLE composerd.counts (
    slot integer PRIMARY KEY,
    waiting bigint NOT NULL,
    ready bigint NOT NULL,
    running bigint NOT NULL,
    finished bigint NOT NULL,
    failed bigint NOT NULL,
    canceled bigint NOT NULL
);
ALTER TABLE composerd.counts SET (
    fillfactor = 20,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000
);

CREATE FUNCTION composerd.count_jobs() RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    n record;
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT count(*) FILTER (WHERE state = 'waiting') AS waiting, count(*) FILTER (WHERE state = 'ready') AS ready,
            count(*) FILTER (WHERE state = 'running') AS running, count(*) FILTER (WHERE state = 'finished') AS finished,
            count(*) FILTER (WHERE state = 'failed') AS failed, count(*) FILTER (WHERE state = 'canceled') AS canceled
        INTO n FROM after;
    ELSIF TG_OP = 'UPDATE' THEN
        SELECT coalesce(sum(one) FILTER (WHERE state = 'waiting'), 0) AS waiting,
            coalesce(sum(one) FILTER (WHERE state = 'ready'), 0) AS ready,
            coalesce(sum(one) FILTER (WHERE state = 'running'), 0) AS running,
            coalesce(sum(one) FILTER (WHERE state = 'finished'), 0) AS finished,
            coalesce(sum(one) FILTER (WHERE state = 'failed'), 0) AS failed,
            coalesce(sum(one) FILTER (WHERE state = 'canceled'), 0) AS canceled
        INTO n FROM (SELECT state, 1 AS one FROM after UNION ALL SELECT state, -1 FROM before) c;
    ELSE
        SELECT -count(*) FILTER (WHERE state = 'waiting') AS waiting, -count(*) FILTER (WHERE state = 'ready') AS ready,
            -count(*) FILTER (WHERE state = 'running') AS running, -count(*) FILTER (WHERE state = 'finished') AS finished,
            -count(*) FILTER (WHERE state = 'failed') AS failed, -count(*) FILTER (WHERE state = 'canceled') AS canceled
        INTO n FROM before;
    END IF;
    IF (n.waiting, n.ready, n.running, n.finished, n.failed, n.canceled) <> (0, 0, 0, 0, 0, 0) THEN
        INSERT INTO composerd.counts AS c (slot, waiting, ready, running, finished, failed, canceled)
        VALUES (mod(pg_backend_pid(), 256), n.waiting, n.ready, n.running, n.finished, n.failed, n.canceled)
        ON CONFLICT (slot) DO UPDATE
        SET waiting = c.waiting + excluded.waiting, ready = c.ready + excluded.ready, running = c.running + excluded.running,
            finished = c.finished + excluded.finished, failed = c.failed + excluded.failed,
            canceled = c.canceled + excluded.canceled;
    END IF;
    RETURN NULL;
END
$$;

-- Counts the jobs again, which is only necessary if somebody changed them while triggers were off.
CREATE FUNCTION composerd.recount() RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    LOCK TABLE composerd.jobs IN SHARE ROW EXCLUSIVE MODE;
    DELETE FROM composerd.counts;
    INSERT INTO composerd.counts (slot, waiting, ready, running, finished, failed, canceled)
    SELECT 0, count(*) FILTER (WHERE state = 'waiting'), count(*) FILTER (WHERE state = 'ready'),
        count(*) FILTER (WHERE state = 'running'), count(*) FILTER (WHERE state = 'finished'),
        count(*) FILTER (WHERE state = 'failed'), count(*) FILTER (WHERE state = 'canceled')
    FROM composerd.jobs
    HAVING count(*) > 0; -- an empty storage takes the rows of another one by logical replication
END
$$;

CREATE TRIGGER count_inserted AFTER INSERT ON composerd.jobs REFERENCING NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION composerd.count_jobs();
CREATE TRIGGER count_updated AFTER UPDATE ON composerd.jobs REFERENCING OLD TABLE AS before NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION composerd.count_jobs();
CREATE TRIGGER count_deleted AFTER DELETE ON composerd.jobs REFERENCING OLD TABLE AS before
    FOR EACH STATEMENT EXECUTE FUNCTION composerd.count_jobs();
SELECT composerd.recount();
