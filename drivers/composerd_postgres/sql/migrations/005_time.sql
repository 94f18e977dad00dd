-- What the servers know of time together, in the only row of the table.
--
-- Time was the database's clock plus `ahead`, so that it never went back. It is the database's clock now. The column stays
-- for servers of earlier versions that still run.
UPDATE composerd.clock SET ahead = '0';

ALTER TABLE composerd.clock
    ADD COLUMN attended timestamptz, -- the last time at which a server looked after the leases; NULL: none did yet
    ADD COLUMN disputed_since timestamptz, -- jobs that ended before are kept; NULL: the clock is right
    ADD COLUMN jump double precision, -- the seconds by which the clock jumped when it did last
    ADD COLUMN jumped_at timestamptz; -- when a server noticed that, on the clock as it is since
