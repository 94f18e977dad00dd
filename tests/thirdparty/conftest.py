"""The tests of distributions that are not installed by `pip install -e '.[test]'` are left out; where all is checked they must be there."""

import importlib.util
import os

collect_ignore_glob = []
if importlib.util.find_spec("composerd_sqlite") is None and not os.environ.get("CI"):
    collect_ignore_glob.append("composerd-sqlite/*")
