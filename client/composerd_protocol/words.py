"""Words: the texts that name types, architectures, channels and keys."""

TENANT_CHANNELS = "org-"
"""The beginning of the channel of a tenant; the tenant's name follows."""


def is_word(text: str) -> bool:
    """Return True if a text is printable and has no white space; the only printable white space is the space."""
    return text.isprintable() and " " not in text
