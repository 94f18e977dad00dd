-- The secret that all servers of the storage share, in the only row of the table. The first server that needs it makes it, so that
-- an empty storage can take that of another one by logical replication. Whoever deletes the row gets another one at the next start.
CREATE TABLE composerd.secret (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    value bytea NOT NULL
);
