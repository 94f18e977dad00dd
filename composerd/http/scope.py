"""The jobs and workers that exist for the identity that sent a request: those of its channel, or all."""

from composerd.errors import InvalidContent, NotAllowed
from composerd.http.fields import LONGEST_WORD
from composerd.http.schemas import NOT_A_WORD
from composerd.identity.values import Identity
from composerd_protocol.words import is_word


def own_channel(named: str | None, sender: Identity, where: str = "") -> str:
    """Return the channel that a request is about: the one that it names, or else that of its sender.

    `where` is the path of the object that names it, for errors. Raises `NotAllowed` for a channel that the sender may
    not name, whether there is anything in it or not, and `InvalidContent` for a text that cannot be one.
    """
    if named is None:
        return sender.channel
    if not sender.sees(named):
        raise NotAllowed(field=f"{where}channel", problem="it is not yours: leave it out")
    if not is_word(named) or len(named) > LONGEST_WORD:
        raise InvalidContent(field=f"{where}channel", problem=NOT_A_WORD)
    return named
