"""Linters of the committed documents, and clients for TypeScript, from packages that npm has.

openapi-spec-validator, which is a package for Python, is in tests/http.
"""

from pathlib import Path

import pytest

from .conftest import DOCUMENTS, PROGRAMS, Serve, Tools
from .job import run_a_job

pytestmark = pytest.mark.timeout(300)

OPTIONS = ("--strict", "--noUncheckedIndexedAccess", "--module", "nodenext", "--target", "es2022", "--skipLibCheck")
"""The strictest checks for a program that is run by Node; what comes with the packages is not checked."""

documents = pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)


@documents
async def test_redocly_finds_nothing(node_tools: Tools, document: Path) -> None:
    """`redocly lint` has no error and no warning by its recommended rules."""
    out = await node_tools.run("redocly", "lint", "--extends=recommended", "--format=json", document)
    assert '"problems": []' in out


@documents
async def test_spectral_finds_nothing(node_tools: Tools, tmp_path: Path, document: Path) -> None:
    """`spectral lint` finds nothing by its rules for OpenAPI, not even a hint."""
    ruleset = tmp_path / "spectral.yaml"
    ruleset.write_text("extends: ['spectral:oas']\n")
    out = await node_tools.run("spectral", "lint", "--fail-severity", "hint", "--ruleset", ruleset, document)
    assert "No results" in out


async def test_openapi_typescript(serve: Serve, node_tools: Tools, tmp_path: Path) -> None:
    """A program that uses openapi-fetch with its types compiles, and does a whole job."""
    for name, document in DOCUMENTS.items():
        await node_tools.run("openapi-typescript", document, "--output", f"{name}.d.ts")
    (node_tools.folder / "fetch.ts").write_text((PROGRAMS / "fetch.ts").read_text())
    await node_tools.run("tsc", *OPTIONS, "fetch.ts")
    await run_a_job(serve, node_tools, ("node", node_tools.folder / "fetch.js"), tmp_path)
