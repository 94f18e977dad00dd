-- The dependents of a job in the order of their submission, for their pages: without it each page would sort all of them.
CREATE INDEX edges_order ON composerd.edges (dependency, seq);

-- Those to which the end of a job has to be propagated yet, the latest first. Nearly all edges are closed in the end.
CREATE INDEX edges_open ON composerd.edges (dependency, seq DESC) WHERE open;
