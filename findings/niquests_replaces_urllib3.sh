#!/usr/bin/env bash
# niquests 3.21.2: installing it gives every other package of the environment another urllib3; removing it breaks requests.
#
# niquests needs urllib3-future, whose files are installed as the package urllib3, over those of the real one, although
# pip goes on listing urllib3 2.8.0. requests and everything else that imports urllib3 then runs on urllib3-future. When
# niquests and urllib3-future are removed, files that both packages own are removed, and `import requests` fails until
# urllib3 is installed again by force.
#
# Output seen: "before: urllib3 2.8.0; with niquests: urllib3 2.25.904, pip says 2.8.0; removed: requests cannot be imported"
set -euo pipefail

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
pip() { "$scratch/venv/bin/pip" -q "$@"; }
version() { "$scratch/venv/bin/python" -c 'import urllib3; print(urllib3.__version__)'; }

pip install requests==2.34.2 urllib3==2.8.0
before=$(version)
pip install niquests==3.21.2 urllib3-future==2.25.904
with=$(version)
listed=$("$scratch/venv/bin/python" -c 'import importlib.metadata as metadata; print(metadata.version("urllib3"))')
pip uninstall -y niquests urllib3-future
if "$scratch/venv/bin/python" -c 'import requests' 2> "$scratch/log"; then removed='requests works'; else removed='requests cannot be imported'; fi

said="before: urllib3 $before; with niquests: urllib3 $with, pip says $listed; removed: $removed"
echo "$said"
[ "$said" = 'before: urllib3 2.8.0; with niquests: urllib3 2.25.904, pip says 2.8.0; removed: requests cannot be imported' ]
