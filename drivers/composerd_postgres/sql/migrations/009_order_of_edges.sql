-- The dependents of a job in the order of their submission, for their pages: without it each page would sort all of them.
CREATE INDEX edges_order ON composerd.edges (dependency, seq);
