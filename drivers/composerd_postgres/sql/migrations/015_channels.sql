-- The jobs of a channel in the order of their submission, for its pages. Those of the empty channel are not in it: where there are no
-- tenants it costs nothing. Neither column ever changes.
CREATE INDEX jobs_channel ON composerd.jobs (channel, seq) WHERE channel <> '';
