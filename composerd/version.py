"""The version of composerd, as it was installed."""

import importlib.metadata

VERSION = importlib.metadata.version("composerd")
