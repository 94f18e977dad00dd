"""Connections to the database: the storage URL, the hosts, single connections and the pool of them. No SQL of ours."""
