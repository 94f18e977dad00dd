-- A primary key for the only table without one. Once a publication contains a table, PostgreSQL refuses updates of its rows
-- unless a replica identity tells a subscriber which row was changed; the primary key is that.

-- The constraint allows one row only, because there is one clock.
ALTER TABLE composerd.clock ADD COLUMN id boolean PRIMARY KEY DEFAULT true CHECK (id);
