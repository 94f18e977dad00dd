-- The tables. `composerd` stands for the schema that the storage URL names.
--
-- Text that is compared is in the collation "C": no upgrade of the system's locales changes the order of an index.
-- A job without an arch has the arch '', which no job can name.

CREATE SEQUENCE composerd.places;

-- One row a job. What never changes after the submission, and what does, in one place; payloads are elsewhere.
CREATE TABLE composerd.jobs (
    id uuid PRIMARY KEY,
    seq bigint NOT NULL, -- the order of submission
    place bigint NOT NULL, -- among ready jobs of one priority; the same as seq until the job comes back
    channel text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    arch text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL
        CHECK (state IN ('waiting', 'ready', 'running', 'finished', 'failed', 'canceled')),
    priority integer NOT NULL,
    queued_at timestamptz NOT NULL,
    not_before timestamptz,
    started_at timestamptz,
    finished_at timestamptz,
    expires_at timestamptz,
    purge_at timestamptz, -- when it is looked at to be removed: expires_at, or later if it was needed then
    retries integer NOT NULL DEFAULT 0,
    failures integer NOT NULL DEFAULT 0,
    returns integer NOT NULL DEFAULT 0,
    pending integer NOT NULL DEFAULT 0, -- how many of its edges are open
    attempt integer NOT NULL DEFAULT 0,
    worker_id uuid,
    unsettled boolean NOT NULL DEFAULT false, -- it has ended, and edges to those that depend on it are still open
    dependencies uuid[] NOT NULL,
    timeout double precision,
    max_retries integer NOT NULL,
    retry_on_failure integer NOT NULL,
    retry_backoff double precision NOT NULL,
    fail_with_dependency boolean NOT NULL,
    retention double precision,
    idempotency_key text COLLATE "C",
    fingerprint bytea NOT NULL,
    args_size bigint NOT NULL DEFAULT 0
);

-- Payloads are bytes: they come back as they were sent, whatever the encoding of the database.
CREATE TABLE composerd.args (job_id uuid PRIMARY KEY, body bytea NOT NULL);
CREATE TABLE composerd.results (job_id uuid PRIMARY KEY, body bytea NOT NULL);

-- Who depends on whom. An edge is open until its dependency's end has been applied to the dependent.
CREATE TABLE composerd.edges (
    dependency uuid NOT NULL,
    dependent uuid NOT NULL,
    seq bigint NOT NULL, -- of the dependent
    open boolean NOT NULL,
    PRIMARY KEY (dependency, dependent)
);

-- The remembered attempts.
CREATE TABLE composerd.attempts (
    token uuid PRIMARY KEY,
    job_id uuid NOT NULL,
    number integer NOT NULL,
    state text COLLATE "C" NOT NULL
        CHECK (state IN ('running', 'finished', 'canceled', 'superseded')),
    confirm boolean NOT NULL,
    lease double precision NOT NULL,
    digest bytea NOT NULL DEFAULT '',
    worker_id uuid
);

-- The running attempts, and when they lapse. Narrow, and no index on what a renewal changes.
CREATE TABLE composerd.leases (
    token uuid PRIMARY KEY,
    job_id uuid NOT NULL,
    worker_id uuid,
    lease double precision NOT NULL,
    handover double precision,
    confirmed boolean NOT NULL,
    began timestamptz NOT NULL,
    timeout_at timestamptz,
    deadline timestamptz NOT NULL
);

-- Files attached to the attempt that runs, or to the one that ended the job.
CREATE TABLE composerd.artifacts (
    job_id uuid NOT NULL,
    name text COLLATE "C" NOT NULL,
    size bigint NOT NULL,
    sha256 text NOT NULL,
    place text NOT NULL,
    PRIMARY KEY (job_id, name)
);

-- The latest progress of running attempts. A crash of the database may forget it.
CREATE UNLOGGED TABLE composerd.progress (job_id uuid PRIMARY KEY, body bytea NOT NULL);

CREATE TABLE composerd.workers (
    id uuid PRIMARY KEY,
    arch text NOT NULL,
    types text[] NOT NULL,
    channel text NOT NULL,
    seen_at timestamptz NOT NULL
);

-- How far our time is ahead of the database's: not at all, unless its clock has gone back (a failover to another machine).
CREATE TABLE composerd.clock (ahead interval NOT NULL);
INSERT INTO composerd.clock VALUES ('0');
