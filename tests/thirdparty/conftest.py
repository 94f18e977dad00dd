"""Leaves out the tests of distributions that are not installed.

`pip install -e '.[test]'` does not install them. With `CI` set they have to be installed.
"""

import importlib.util
import os

collect_ignore_glob = [
    f"{name}/*"
    for name in ("composerd-sqlite", "composerd-bucket")
    if importlib.util.find_spec(name.replace("-", "_")) is None and not os.environ.get("CI")
]
