"""Identities: where they come from, and what each may do. Nothing here knows a request or a storage."""
