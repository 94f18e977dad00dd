"""`composerd serve`: runs the server."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from composerd.cli import completing
from composerd.cli.completing import Complete
from composerd.settings import SETTINGS, Setting
from composerd.settings.values import OneOf, readable_file


@click.command(epilog="Example: composerd serve --listen 127.0.0.1:8700 --storage fs:/srv/composerd")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="TOML file with the same settings in a table [composerd].",
)
def serve(config: Path | None, **options: Any) -> None:
    """Run the server.

    Every setting can be given as an option, as an environment variable (COMPOSERD_ and its name in capitals), or in the
    configuration file. An option overrides the environment, which overrides the file.
    """
    from composerd.cli.errors import Failure
    from composerd.driver.url import has_password
    from composerd.settings import SettingsError, load

    given = {name: value for name, value in options.items() if value not in (None, ())}
    try:
        settings = load(given, os.environ, config)
    except SettingsError as exc:
        raise Failure(f"{exc}", exit_code=2) from exc
    from composerd.server.supervisor import run

    password_shown = any(has_password(given.get(name, "")) for name in ("storage", "artifacts"))
    sys.exit(run(settings, password_shown=password_shown))


def _complete(setting: Setting) -> Complete | None:
    if setting.name == "storage":
        return completing.storages
    if setting.name == "artifacts":
        return completing.directories
    if setting.parse is readable_file:
        return completing.files
    return completing.words(*setting.parse.words) if isinstance(setting.parse, OneOf) else None


def _option(setting: Setting) -> Callable[[click.Command], click.Command]:
    if setting.is_flag:
        return click.option(setting.option, setting.name, flag_value="true", default=None, help=setting.help)
    return click.option(
        setting.option,
        setting.name,
        multiple=setting.repeatable,
        shell_complete=_complete(setting),
        metavar="VALUE",
        help=setting.help + (" Repeatable." if setting.repeatable else "") + f"  [default: {setting.shown_default}]",
    )


for _setting in SETTINGS:
    _option(_setting)(serve)
