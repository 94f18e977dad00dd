"""The settings of `composerd serve`.

A setting comes from, strongest first: the command line, the environment, a TOML file, its default.
"""

from composerd.settings.reading import SettingsError, load
from composerd.settings.setting import Setting
from composerd.settings.table import SETTINGS, Settings
from composerd.settings.values import COMPOSER_BASE, DEFAULT_ADDRESS, MAX_DURATION, TCP_ADDRESS, WORKER_BASE

__all__ = [
    "COMPOSER_BASE",
    "DEFAULT_ADDRESS",
    "MAX_DURATION",
    "SETTINGS",
    "TCP_ADDRESS",
    "WORKER_BASE",
    "Setting",
    "Settings",
    "SettingsError",
    "load",
]
