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


OF_OAPI_CODEGEN = ("Response", "Params", "JSONBody", "JSONRequestBody", "Request")
"""Suffixes that oapi-codegen appends to the name of an operation for types of its own."""


@pytest.mark.parametrize("name", FILES.values())
def test_no_schema_has_the_name_of_a_type_that_oapi_codegen_makes(name: str) -> None:
    """oapi-codegen makes types such as `RequestJobResponse` of the operation `RequestJob`."""
    document = json.loads((SPECS / name).read_text())
    operations = [one["operationId"] for path in document["paths"].values() for one in path.values()]
    made = {(operation + ending).lower() for operation in operations for ending in OF_OAPI_CODEGEN}
    assert not made & {schema.lower() for schema in document["components"]["schemas"]}


@pytest.mark.parametrize("name", FILES.values())
def test_json_that_is_kept_is_raw_in_go(name: str) -> None:
    """oapi-codegen keeps args, results and progress as they were sent, numbers of any size included."""
    document = json.loads((SPECS / name).read_text())
    properties = {
        (schema, field): found
        for schema, described in document["components"]["schemas"].items()
        for field, found in described.get("properties", {}).items()
        if field in ("args", "result", "partial")
    }
    assert properties
    for found in properties.values():
        assert (found["x-go-type"], found["x-go-type-import"]) == ("json.RawMessage", {"path": "encoding/json"})


@pytest.mark.parametrize("name", FILES.values())
def test_no_field_has_a_default(name: str) -> None:
    """openapi-typescript takes a field with a default for required, also in a request."""
    document = json.loads((SPECS / name).read_text())
    assert not [
        (schema, field)
        for schema, described in document["components"]["schemas"].items()
        for field, found in described.get("properties", {}).items()
        if "default" in found
    ]
