"""Connections to the database: its URL, its hosts, single connections and a pool of them."""
