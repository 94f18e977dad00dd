-- Statements about the row `clock`, and about all leases after a time in which nobody could renew them.

-- name: lock_clock
-- Let no other server give time to leases until the transaction ends. A server that is stopped meanwhile must not stop the
-- others too.
SET LOCAL idle_in_transaction_session_timeout = '5s';
SELECT FROM composerd.clock FOR UPDATE

-- name: clock
-- The time, and what the servers know of it together.
SELECT clock_timestamp() + %(shift)s::interval AS now, c.attended, c.disputed_since, c.jump, c.jumped_at
FROM composerd.clock c

-- name: attend
-- Note that a server looked after the leases at a time that is not long ago. A noted time that is in the future is from before
-- the clock was set back. The row is written even if another server has noted a later time, and its lock is waited for: the
-- answer shows that commits do not hang, as those of heartbeats would.
UPDATE composerd.clock
SET attended = CASE
    WHEN attended > clock_timestamp() + %(shift)s::interval + interval '1 second' THEN %(now)s
    ELSE greatest(attended, %(now)s)
END

-- name: attend_now
-- Note the same in a transaction that has locked the row, at the time at which it was locked.
UPDATE composerd.clock SET attended = %(now)s

-- name: save_dispute
-- Note since when the clock is disputed, or that it no longer is.
UPDATE composerd.clock SET disputed_since = %(disputed_since)s

-- name: save_jump
-- Note a jump that the leases have followed.
UPDATE composerd.clock SET jump = %(jump)s, jumped_at = %(now)s

-- name: grant_grace
-- Give every running attempt a full lease, because the clock jumped. Does the same as `grant_grace` of
-- composerd.driver.transitions.
UPDATE composerd.leases l
SET began = l.began + make_interval(secs => %(jump)s),
    deadline = %(now)s + make_interval(secs => l.lease),
    timeout_at = CASE
        WHEN l.timeout_at IS NOT NULL
            THEN greatest(l.timeout_at + make_interval(secs => %(jump)s), %(now)s + make_interval(secs => l.lease))
    END
WHERE l.token_hash IN (SELECT token_hash FROM composerd.leases ORDER BY token_hash FOR UPDATE)

-- name: shorten_backoffs
-- Let no job wait for longer than its backoff: its time is one of a clock that was ahead if the clock was set back. Does the
-- same as `shorten_backoff` of composerd.driver.transitions.
UPDATE composerd.jobs j
SET not_before = b.latest
FROM (
    SELECT
        d.id,
        %(now)s + make_interval(secs => least(d.retry_backoff * 2.0 ^ least(d.failures - 1, 63), 3600)) AS latest
    FROM composerd.jobs d
    WHERE d.state = 'waiting' AND d.pending = 0 AND d.not_before > %(now)s AND d.failures > 0
    ORDER BY d.id
    FOR NO KEY UPDATE
) b
WHERE j.id = b.id AND j.not_before > b.latest

-- name: extend_lease
-- Do not count `gap` seconds without a server against the attempts that were running meanwhile. Does the same as
-- `extend_lease` of composerd.driver.transitions.
UPDATE composerd.leases l
SET deadline = CASE
        WHEN a.seconds * 2 > l.lease THEN %(now)s + make_interval(secs => l.lease)
        ELSE l.deadline + make_interval(secs => a.seconds)
    END,
    timeout_at = CASE
        WHEN l.timeout_at IS NULL THEN NULL
        WHEN a.seconds * 2 > l.lease THEN greatest(l.timeout_at, %(now)s + make_interval(secs => l.lease))
        ELSE l.timeout_at + make_interval(secs => a.seconds)
    END
FROM (
    SELECT o.token_hash, n.seconds
    FROM composerd.leases o
    CROSS JOIN LATERAL (SELECT least(%(gap)s, extract(epoch FROM %(now)s - o.began))::double precision AS seconds) n
    WHERE n.seconds > %(attended_within)s OR n.seconds * 2 > o.lease
    ORDER BY o.token_hash
    FOR UPDATE OF o
) a
WHERE l.token_hash = a.token_hash
