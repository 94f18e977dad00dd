"""The credentials of a client: bearer tokens, where they come from, and where they may be sent."""
