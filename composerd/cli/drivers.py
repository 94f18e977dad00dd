"""`composerd drivers`: the installed storage drivers."""

from typing import TYPE_CHECKING

import click

from composerd.cli.options import json_option

if TYPE_CHECKING:
    from composerd.driver.registry import InstalledDriver


@click.command(epilog="Example: composerd drivers")
@json_option
def drivers(as_json: bool) -> None:
    """List installed storage drivers, and why any cannot be used."""
    import msgspec

    from composerd.cli.running.console import print_json, print_table
    from composerd.driver.registry import installed

    found = installed()
    if as_json:
        print_json({"kind": "DriverList", "items": [msgspec.to_builtins(one) for one in found]})
        return
    rows = [
        (one.scheme, f"{one.distribution} {one.version}", one.contract or "", _capabilities(one), one.error or "loads")
        for one in found
    ]
    print_table(("scheme", "distribution", "contract", "capabilities", "state"), rows)


def _capabilities(driver: "InstalledDriver") -> str:
    has = driver.capabilities
    if has is None:
        return ""
    return ", ".join(name for name, yes in (("durable", has.durable), ("shared", has.shared)) if yes) or "none"
