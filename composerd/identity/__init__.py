"""Identities: who sends a request, as far as that is decided without HTTP."""
