"""Identities from the JWTs of an identity provider, such as the access tokens of OAuth 2.0.

`source` is what a server uses of it. Nothing is imported here, because the settings use `urls` alone.
"""
