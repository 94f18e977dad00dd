"""The file `SECRET` in the journal's directory: the random bytes of `Driver.secret`."""

import logging
from secrets import token_bytes

from composerd.directory import Directory
from composerd.driver.contract import SECRET_SIZE
from composerd.ownership import NotTrusted

log = logging.getLogger(__name__)

SECRET = "SECRET"  # noqa: S105  # the name of the file
"""The name of the file."""


def kept_secret(directory: Directory) -> bytes:
    """Return the secret of the storage, which the caller has locked; make one if there is none that is whole.

    If it cannot be stored, because the disk is full for example, the secret lasts until the storage is closed. Raises
    `NotTrusted` if another user could have written the file.
    """
    path = directory.path / SECRET
    try:
        with directory.reading(SECRET) as file:
            found = file.read(SECRET_SIZE + 1)
        if len(found) == SECRET_SIZE:
            return found
        log.warning("%s: the secret is damaged; made another one, so cursors from before are refused", path)
    except FileNotFoundError:
        pass
    except NotTrusted:
        raise
    except OSError as exc:
        log.warning("%s: cannot read the secret: %s; made another one", path, exc.strerror)
    made = token_bytes(SECRET_SIZE)
    try:
        directory.write(SECRET, made)
    except OSError as exc:
        log.warning("%s: cannot store the secret: %s; the next start makes another one", path, exc.strerror)
    return made
