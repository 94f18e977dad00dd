"""The committed OpenAPI documents."""

import json
from pathlib import Path

import pytest
from openapi_spec_validator import validate

from composerd.http.specs import FILES, documents

SPECS = Path(__file__).parents[2] / "specs"


@pytest.mark.parametrize("name", FILES.values())
def test_the_committed_document_is_what_the_code_says(name: str) -> None:
    """`python -m composerd.http.specs specs/` changes nothing, and generating the documents twice gives the same."""
    assert (SPECS / name).read_text() == documents()[name] == documents()[name]


@pytest.mark.parametrize("name", FILES.values())
def test_the_document_is_valid_openapi(name: str) -> None:
    """The documents are valid OpenAPI 3.1.0."""
    document = json.loads((SPECS / name).read_text())
    assert document["openapi"] == "3.1.0"
    validate(document)
