"""Who the client says that it is: bearer tokens, where they come from, and where they may be sent."""
