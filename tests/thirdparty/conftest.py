"""The tests of distributions that are not installed by `pip install -e '.[test]'` are left out; where all is checked they must be there."""

import importlib.util
import os

collect_ignore_glob = [
    f"{name}/*"
    for name in ("composerd-sqlite", "composerd-bucket")
    if importlib.util.find_spec(name.replace("-", "_")) is None and not os.environ.get("CI")
]
