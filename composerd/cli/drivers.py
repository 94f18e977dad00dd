"""`composerd drivers`: the installed storage drivers."""

import click
import msgspec

from composerd.cli.console import json_option, print_json, print_table
from composerd.driver.registry import InstalledDriver, installed


@click.command(epilog="Example: composerd drivers")
@json_option
def drivers(as_json: bool) -> None:
    """List installed storage drivers, and why any cannot be used."""
    found = installed()
    if as_json:
        print_json({"kind": "DriverList", "items": [msgspec.to_builtins(one) for one in found]})
        return
    rows = [
        (one.scheme, f"{one.distribution} {one.version}", one.contract or "", _capabilities(one), one.error or "loads")
        for one in found
    ]
    print_table(("scheme", "distribution", "contract", "capabilities", "state"), rows)


def _capabilities(driver: InstalledDriver) -> str:
    has = driver.capabilities
    if has is None:
        return ""
    return ", ".join(name for name, yes in (("durable", has.durable), ("shared", has.shared)) if yes) or "none"
