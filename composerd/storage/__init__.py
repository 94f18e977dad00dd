"""Work on a storage without a server, with any driver."""

from composerd.storage.backup import BackedUp, back_up
from composerd.storage.checking import check, info, migrate
from composerd.storage.moving import ArtifactsElsewhere, Moved, move
from composerd.storage.opening import Progress, reading, started
from composerd.storage.salvage import Salvaged, salvage

__all__ = [
    "ArtifactsElsewhere",
    "BackedUp",
    "Moved",
    "Progress",
    "Salvaged",
    "back_up",
    "check",
    "info",
    "migrate",
    "move",
    "reading",
    "salvage",
    "started",
]
