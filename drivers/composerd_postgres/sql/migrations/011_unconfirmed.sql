-- The claim of migration 007, which begins every attempt unconfirmed: also that of a worker that did not promise to confirm. What
-- nobody ever asked about again goes back uncounted.
--
-- Requests are answered in their order. Neighbours that ask for the same keys (a class) are served together. A row without
-- a hash comes last: how many requests were answered, and whether more were not because rows that are ready were locked by
-- somebody else just then. Every index scan below has the order of jobs_ready; the settings see to it that none is anything else.
-- A session plans this once, perhaps just after a vacuum of empty tables: a table joined by `=` might then be walked over whole for
-- as long as the session lives. Joined by `= ANY (ARRAY[…])` it can only be looked up.
CREATE OR REPLACE FUNCTION composerd.begin_attempts(
    asked json, -- [{"token_hash", "class", "lease", "handover", "worker"}]
    wanted json, -- [{"class", "channel", "type", "arch", "rank", "place"}]: nothing ready lies before (rank, place)
    most bigint, -- once the args handed out weigh that much, the rest is not looked at
    shift interval,
    OUT token_hash uuid,
    OUT job_id uuid,
    OUT channel text,
    OUT type text,
    OUT arch text,
    OUT rank integer,
    OUT place bigint,
    OUT args bytea,
    OUT dependencies uuid[],
    OUT attempt integer,
    OUT lapses_in double precision,
    OUT request integer,
    OUT fresh boolean,
    OUT contended boolean
) RETURNS SETOF record
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    hashes uuid[];
    classes integer[];
    leases double precision[];
    handovers double precision[];
    workers uuid[];
    known uuid[];
    class_ integer;
    channels text[];
    types text[];
    arches text[];
    ranks integer[];
    places bigint[];
    counts bigint[];
    requests integer;
    first integer := 1;
    last integer;
    given integer;
    weight bigint := 0;
    at timestamptz;
    bounded boolean;
    one record;
BEGIN
    SELECT array_agg(r.token_hash), array_agg(r.class), array_agg(r.lease), array_agg(r.handover), array_agg(r.worker)
    INTO hashes, classes, leases, handovers, workers
    FROM json_to_recordset(asked) AS r(
        token_hash uuid, class integer, lease double precision, handover double precision, worker uuid
    );
    requests := coalesce(cardinality(hashes), 0);
    SELECT coalesce(array_agg(a.token_hash), '{}') INTO known FROM composerd.attempts a WHERE a.token_hash = ANY (hashes);

    WHILE first <= requests AND (first = 1 OR weight < most) LOOP
        IF hashes[first] = ANY (known) THEN -- a repetition
            FOR one IN
                SELECT a.token_hash, a.job_id, j.channel, j.type, j.arch, -j.priority AS rank, j.place, b.body, j.dependencies,
                    a.number, j.args_size
                FROM composerd.attempts a
                JOIN composerd.jobs j ON j.id = ANY (ARRAY[a.job_id])
                LEFT JOIN composerd.args b ON b.job_id = ANY (ARRAY[a.job_id])
                WHERE a.token_hash = hashes[first] AND a.state = 'running'
            LOOP
                token_hash := one.token_hash; job_id := one.job_id; channel := one.channel; type := one.type; arch := one.arch;
                rank := one.rank; place := one.place; args := one.body; dependencies := one.dependencies;
                attempt := one.number; lapses_in := NULL; request := first; fresh := false;
                weight := weight + one.args_size;
                RETURN NEXT;
            END LOOP;
            first := first + 1;
            CONTINUE;
        END IF;

        IF class_ IS DISTINCT FROM classes[first] THEN
            class_ := classes[first];
            SELECT array_agg(w.channel), array_agg(w.type), array_agg(w.arch), array_agg(w.rank), array_agg(w.place)
            INTO channels, types, arches, ranks, places
            FROM json_to_recordset(wanted) AS w(
                class integer, channel text, type text, arch text, rank integer, place bigint
            )
            WHERE w.class = class_;
        END IF;
        last := first;
        WHILE last < requests AND classes[last + 1] = class_ AND NOT hashes[last + 1] = ANY (known) LOOP
            last := last + 1;
        END LOOP;

        bounded := EXISTS (SELECT FROM unnest(places) p WHERE p > 0);
        LOOP
            IF cardinality(channels) = 1 THEN
                counts := ARRAY[last - first + 1];
            ELSE -- how many of each key are among the best
                SELECT array_agg(coalesce(c.count, 0) ORDER BY k.key) INTO counts
                FROM generate_series(1, cardinality(channels)) k(key)
                LEFT JOIN (
                    SELECT best.key, count(*) AS count
                    FROM (
                        SELECT k.key
                        FROM unnest(channels, types, arches, ranks, places) WITH ORDINALITY k(channel, type, arch, rank, place, key)
                        CROSS JOIN LATERAL (
                            SELECT j.priority, j.place
                            FROM composerd.jobs j
                            WHERE j.state = 'ready' AND j.channel = k.channel AND j.type = k.type AND j.arch = k.arch
                                AND (-j.priority, j.place) >= (k.rank, k.place)
                            ORDER BY -j.priority, j.place
                            LIMIT last - first + 1
                        ) j
                        ORDER BY -j.priority, j.place
                        LIMIT last - first + 1
                    ) best
                    GROUP BY best.key
                ) c USING (key);
            END IF;

            at := clock_timestamp() + shift;
            given := 0;
            FOR one IN
                WITH taken AS MATERIALIZED ( -- locked, and no more of them than are wanted
                    SELECT j.id, j.priority, j.place, j.args_size
                    FROM unnest(channels, types, arches, ranks, places, counts) k(channel, type, arch, rank, place, count)
                    CROSS JOIN LATERAL (
                        SELECT j.id, j.priority, j.place, j.args_size
                        FROM composerd.jobs j
                        WHERE j.state = 'ready' AND j.channel = k.channel AND j.type = k.type AND j.arch = k.arch
                            AND (-j.priority, j.place) >= (k.rank, k.place)
                        ORDER BY -j.priority, j.place
                        LIMIT k.count
                        FOR NO KEY UPDATE SKIP LOCKED
                    ) j
                ),
                ranked AS (
                    SELECT t.id, row_number() OVER best AS nth,
                        coalesce(sum(t.args_size) OVER (best ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
                    FROM taken t
                    WINDOW best AS (ORDER BY -t.priority, t.place)
                ),
                given AS MATERIALIZED (
                    SELECT r.id, q.token_hash, q.lease, q.handover, q.worker, r.nth
                    FROM ranked r
                    JOIN unnest(hashes[first:last], leases[first:last], handovers[first:last], workers[first:last])
                        WITH ORDINALITY q(token_hash, lease, handover, worker, nth) USING (nth)
                    WHERE weight + r.before < most OR (first = 1 AND r.nth = 1)
                ),
                moved AS (
                    UPDATE composerd.jobs j
                    SET state = 'running', started_at = at, attempt = j.attempt + 1, worker_id = g.worker
                    FROM given g
                    WHERE j.id = ANY (ARRAY[g.id])
                    RETURNING j.id, j.channel, j.type, j.arch, j.priority, j.place, j.dependencies, j.attempt, j.timeout, j.args_size,
                        g.token_hash, g.lease, g.handover, g.worker, g.nth
                ),
                begun AS (
                    INSERT INTO composerd.attempts (token_hash, job_id, number, state, confirm, lease, worker_id)
                    SELECT m.token_hash, m.id, m.attempt, 'running', m.handover IS NOT NULL, m.lease, m.worker FROM moved m
                ),
                leased AS (
                    INSERT INTO composerd.leases (token_hash, job_id, worker_id, lease, handover, confirmed, began, timeout_at, deadline)
                    SELECT m.token_hash, m.id, m.worker, m.lease, m.handover, false, m.began,
                        m.began + make_interval(secs => m.timeout), m.began + make_interval(secs => coalesce(m.handover, m.lease))
                    FROM (SELECT *, at + (nth - 1) * interval '1 microsecond' AS began FROM moved) m -- one after the other
                ),
                forgotten AS ( -- the last 16 are remembered
                    DELETE FROM composerd.attempts a USING moved m
                    WHERE m.attempt > 16 AND a.job_id = ANY (ARRAY[m.id]) AND a.number <= m.attempt - 16
                )
                SELECT m.*, b.body, least(m.timeout, coalesce(m.handover, m.lease)) AS lapses
                FROM moved m LEFT JOIN composerd.args b ON b.job_id = ANY (ARRAY[m.id])
                ORDER BY m.nth
            LOOP
                token_hash := one.token_hash; job_id := one.id; channel := one.channel; type := one.type; arch := one.arch;
                rank := -one.priority; place := one.place; args := one.body; dependencies := one.dependencies;
                attempt := one.attempt; lapses_in := one.lapses; request := first + given; fresh := true;
                given := given + 1;
                weight := weight + one.args_size;
                RETURN NEXT;
            END LOOP;
            first := first + given;
            EXIT WHEN first > last OR (weight >= most AND first > 1) OR NOT bounded;
            -- Perhaps there is something before the bounds after all.
            bounded := false;
            ranks := array_fill(-2147483647, ARRAY[cardinality(ranks)]);
            places := array_fill(0::bigint, ARRAY[cardinality(places)]);
            class_ := NULL; -- the next neighbours read their own again
        END LOOP;
        EXIT WHEN weight >= most AND first > 1;

        IF first <= last THEN
            IF EXISTS (
                SELECT
                FROM unnest(channels, types, arches) k(channel, type, arch)
                CROSS JOIN LATERAL (
                    SELECT j.id
                    FROM composerd.jobs j
                    WHERE j.state = 'ready' AND j.channel = k.channel AND j.type = k.type AND j.arch = k.arch
                    ORDER BY -j.priority, j.place
                    LIMIT 1
                ) j
            ) THEN
                contended := true;
                EXIT;
            END IF;
            first := last + 1;
        END IF;
    END LOOP;

    token_hash := NULL;
    request := first - 1;
    contended := coalesce(contended, false);
    RETURN NEXT;
END
$$;
