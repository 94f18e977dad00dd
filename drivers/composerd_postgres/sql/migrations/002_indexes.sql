-- The indexes, and what keeps tables of many updates small.

-- The ready set: what a claim reads, in the order in which it takes. Jobs leave it when they are claimed, for good when they end.
CREATE INDEX jobs_ready ON composerd.jobs (channel, type, arch, (-priority), place) WHERE state = 'ready';

-- Jobs that wait for nothing but their time.
CREATE INDEX jobs_delayed ON composerd.jobs (not_before) WHERE state = 'waiting' AND pending = 0;

-- Ended jobs whose end has to be applied to dependents yet: nearly always none.
CREATE INDEX jobs_unsettled ON composerd.jobs (finished_at) WHERE unsettled;

-- Ended jobs that will be removed.
CREATE INDEX jobs_expiring ON composerd.jobs (purge_at) WHERE purge_at IS NOT NULL;

CREATE UNIQUE INDEX jobs_seq ON composerd.jobs (seq);
CREATE UNIQUE INDEX jobs_key ON composerd.jobs (channel, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX attempts_job ON composerd.attempts (job_id, number);

-- Room beside each row for its next version; vacuumed by what has changed, not by how large the table is.
ALTER TABLE composerd.jobs SET (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0.02,
    autovacuum_analyze_threshold = 5000,
    autovacuum_vacuum_cost_delay = 1
);
ALTER TABLE composerd.attempts SET (
    fillfactor = 85,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 1
);
ALTER TABLE composerd.leases SET (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0
);
ALTER TABLE composerd.progress SET (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);
ALTER TABLE composerd.workers SET (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000
);
