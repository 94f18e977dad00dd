"""`composerd whoami`: who the server takes the user for."""

from composerd.cli.running.console import print_fields, print_json, run, say
from composerd.cli.server import Server
from composerd_client import Identity
from composerd_protocol.times import rfc3339


def whoami(server: Server, as_json: bool) -> None:
    """Show who the server takes the user for."""

    async def show() -> None:
        async with server.composer() as composer:
            if as_json:
                print_json(await composer.whoami_json())
            else:
                _print(await composer.whoami())

    run(show())


def _print(identity: Identity) -> None:
    if identity.source is None:
        say("this server does not ask who its clients are: everybody may do everything")
        return
    ends = None if identity.expires_at is None else rfc3339(identity.expires_at)
    fields = {
        "name": identity.name,
        "role": identity.role,
        "tenant": identity.tenant,
        "channel": identity.channel,
        "source": identity.source,
        "expires_at": ends,
    }
    print_fields({name: value for name, value in fields.items() if value})
