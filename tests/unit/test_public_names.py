"""The names that can be imported from `composerd_client`."""

import ast
import builtins
import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import composerd_client

MADE_BY_A_WORKER = (composerd_client.JobContext, composerd_client.SyncJobContext)
"""Classes whose constructors are not public."""

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "python-client.md"

PUBLIC = {name: getattr(composerd_client, name) for name in composerd_client.__all__}


def _signatures(value: object) -> Iterator[object]:
    """Yield a class and its public methods and properties, or a function."""
    if not isinstance(value, type):
        yield value
        return
    if value not in MADE_BY_A_WORKER:
        yield value.__init__  # type: ignore[misc]  # of the class itself
    if typing.is_typeddict(value) or issubclass(value, msgspec.Struct):
        yield value
    for name, member in inspect.getmembers(value):
        if not name.startswith("_"):
            yield member.fget if isinstance(member, property) else member


def _types(annotation: object) -> Iterator[type]:
    """Yield the classes in an annotation."""
    if isinstance(annotation, type):
        yield annotation
    for one in typing.get_args(annotation):
        yield from _types(one)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_types_in_signatures(name: str) -> None:
    """Each type of the package that a public name takes or returns is public too."""
    found: set[type] = set()
    for signature in _signatures(PUBLIC[name]):
        if callable(signature):
            for annotation in typing.get_type_hints(signature).values():
                found |= set(_types(annotation))
    ours = {one for one in found if one.__module__.startswith("composerd_")}
    assert ours <= {value for value in PUBLIC.values() if isinstance(value, type)}


def test_aliases_in_signatures() -> None:
    """Each other name in a public signature, which stands for a type, is public too."""
    found: set[str] = set()
    for value in PUBLIC.values():
        if not isinstance(value, type):
            continue
        known = {**vars(builtins), **vars(typing), **vars(sys.modules[value.__module__])}
        for function in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(value)))):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and (
                function.name == "__init__" or not function.name.startswith("_")
            ):
                found |= {name for name in _names(function) if not isinstance(known[name], type | typing.TypeVar)}
    assert found - set(typing.__all__) == {"HealthCheck"}
    assert {"Handler", "HealthCheck"} <= set(PUBLIC)  # the first one is the bound of a type variable


def _names(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """Yield the names in the annotations of a function."""
    arguments = [*function.args.args, *function.args.kwonlyargs]
    for annotation in [function.returns, *(argument.annotation for argument in arguments)]:
        if annotation is not None:
            yield from (one.id for one in ast.walk(annotation) if isinstance(one, ast.Name))


def test_errors() -> None:
    """Each error of the client can be caught by its name."""
    errors = {name for name, value in vars(composerd_client.errors).items() if isinstance(value, type)}
    assert {name for name in errors if issubclass(vars(composerd_client.errors)[name], Exception)} <= set(PUBLIC)


def test_the_guide_names_the_errors() -> None:
    """The table of errors in the guide has each error of the client, except the base class and one for handlers."""
    table = GUIDE.read_text(encoding="utf-8").split("## Errors\n")[1].split("\n## ")[0]
    errors = {name for name, value in PUBLIC.items() if isinstance(value, type) and issubclass(value, Exception)}
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == errors - {"ClientError", "LocalFault"}


def test_docstrings() -> None:
    """Everything public has a docstring."""
    for name, value in PUBLIC.items():
        members = inspect.getmembers(value) if isinstance(value, type) else []
        for member_name, member in members:
            own = member_name in vars(value) and not member_name.startswith("_")
            if own and (inspect.isfunction(member) or isinstance(member, property)):
                assert member.__doc__, f"{name}.{member_name}"
