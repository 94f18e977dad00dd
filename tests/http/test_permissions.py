"""The table of permissions, which has every operation, and the page that is made from it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from aiohttp import web

from composerd.http.app import add_routes
from composerd.http.openapi import OPERATIONS
from composerd.http.paths import BASES, Bases
from composerd.identity.permissions import PERMISSIONS, SEES_REASONS
from composerd.identity.roles import Role

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "permissions.md"

_INTRODUCTION = """\
# Permissions

*For operators, and for authors of clients: which role may use which operation.*

An identity has one [role](../explanation/concepts.md#identities).
This page is made from the table in the code (`composerd/identity/permissions.py`) that decides about each request.

- An operation that the role may not use is error 30 (403).
  A request without credentials is error 29 (401), unless the operation needs none.
- A worker, a submitter or a viewer sees the jobs and the workers of its own channel only.
  [What belongs to another tenant does not exist for it](protocol.md#channels-and-tenants).
- An admin sees the jobs and the workers of every channel.
- An attempt, and a worker that is registered, belong to the identity that claimed the job or registered the worker.
  Not even an admin can use the token of another identity's attempt.
- A server without identities takes everybody for an admin.
"""

_TABLES = {"worker": "The worker API", "composer": "The composer API", "": "Neither API"}


def routes() -> Iterator[tuple[str, str, str, str]]:
    """Yield the API, the operation, the method and the path below the API's of each route."""
    app = web.Application()
    bases = app[BASES] = Bases()
    add_routes(app)
    for route in app.router.routes():
        assert route.resource is not None
        path = route.resource.canonical
        if route.method == "HEAD":
            continue
        for api, base in (("worker", bases.worker), ("composer", bases.composer), ("", "")):
            if path.startswith(base):
                yield api, OPERATIONS[route.handler], route.method, path.removeprefix(base)
                break


def page() -> str:
    """Return the page."""
    lines = [_INTRODUCTION]
    for api, heading in _TABLES.items():
        lines += [f"## {heading}", ""]
        lines += [f"| operation | call | {' | '.join(Role)} | no credentials |", "|---|---|" + "---|" * (len(Role) + 1)]
        for of_api, name, method, path in routes():
            if of_api == api:
                roles = PERMISSIONS[name]
                may = ["yes" if roles is None or role in roles else "no" for role in Role]
                may.append("yes" if roles is None else "no")
                lines.append(f"| {name} | `{method} {path}` | {' | '.join(may)} |")
        lines.append("")
    seeing = " and ".join(f"`{role}`" for role in Role if role in SEES_REASONS)
    lines.append(f"`getReadiness` says why the server is not ready to {seeing} only.")
    return "\n".join(lines) + "\n"


def test_every_operation_is_in_the_table() -> None:
    """An operation that is forgotten in the table would need no credentials."""
    assert set(OPERATIONS.values()) == set(PERMISSIONS)


def test_the_page(request: pytest.FixtureRequest) -> None:
    """docs/reference/permissions.md says what the table says; `--permissions-page` writes it."""
    if request.config.getoption("--permissions-page"):
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page()


def test_the_page_changes_with_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page is that of the table in the code: after a change of a permission it has to be written again."""
    changed: Mapping[str, frozenset[Role] | None] = {**PERMISSIONS, "deleteJob": frozenset(Role)}
    monkeypatch.setitem(globals(), "PERMISSIONS", changed)
    assert PAGE.read_text(encoding="utf-8") != page()
