"""Writes the committed OpenAPI documents: `python -m composerd.http.specs specs/`."""

import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
from aiohttp import web

from composerd.http.app import add_routes, openapi_documents
from composerd.http.context import COMPOSER_BASE, WORKER_BASE

FILES = {WORKER_BASE: "worker.openapi.json", COMPOSER_BASE: "composer.openapi.json"}


def documents() -> Mapping[str, str]:
    """The documents as they are committed, by file name."""
    app = web.Application()
    add_routes(app, WORKER_BASE)
    made = openapi_documents(app, WORKER_BASE)
    return {name: msgspec.json.format(made[base], indent=2).decode() + "\n" for base, name in FILES.items()}


def main(directory: Path) -> None:
    """Write them."""
    for name, text in documents().items():
        (directory / name).write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
