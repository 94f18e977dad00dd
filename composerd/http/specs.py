"""The program that writes the committed OpenAPI documents: `python -m composerd.http.specs specs/`."""

import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
from aiohttp import web

from composerd.http.app import add_routes, openapi_documents
from composerd.http.paths import BASES, Bases
from composerd.settings import COMPOSER_BASE, WORKER_BASE

FILES = {WORKER_BASE: "worker.openapi.json", COMPOSER_BASE: "composer.openapi.json"}


def documents() -> Mapping[str, str]:
    """Return the documents as they are committed, by file name."""
    app = web.Application()
    app[BASES] = Bases()
    add_routes(app)
    generated = openapi_documents(app)
    return {name: msgspec.json.format(generated[base], indent=2).decode() + "\n" for base, name in FILES.items()}


def main(directory: Path) -> None:
    """Write the documents into a directory."""
    for name, text in documents().items():
        (directory / name).write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
