"""`Literal`: a parameter of a statement that is already written as SQL."""

LARGE = 256 * 1024
"""Size in bytes above which a parameter or a payload is handled in a thread."""


class Literal:
    """A parameter that is already written as SQL, for psycopg2, which puts it into the statement as it is."""

    __slots__ = ("_text",)

    def __init__(self, text: bytes) -> None:
        self._text = text

    @property
    def large(self) -> bool:
        """True if it takes so long to put it into a statement that this is done in a thread."""
        return len(self._text) > LARGE

    def __conform__(self, protocol: object) -> "Literal":
        """Return an object that psycopg2 can ask for the SQL."""
        return self

    def getquoted(self) -> bytes:
        """Return the SQL."""
        return self._text
