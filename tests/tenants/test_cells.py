"""Each cell of the table of operations, roles, and own or foreign tenants; and each operation without credentials."""

from collections.abc import Iterator

import pytest
from aiohttp import web

from composerd.http.app import add_routes
from composerd.http.openapi import OPERATIONS as OPERATION_NAMES
from composerd.http.paths import BASES, Bases
from composerd.identity.permissions import PERMISSIONS
from composerd.identity.roles import Role

from .operations import NOTHING, OPERATIONS
from .world import OTHER, TENANT, Caller, World

OWN, FOREIGN = "own", "foreign"


def cells() -> Iterator[tuple[str, Role | None, str]]:
    """Yield the cells of the table."""
    for name in PERMISSIONS:
        for role in (*Role, None):
            yield name, role, OWN
            if OPERATIONS[name].about:
                yield name, role, FOREIGN


@pytest.mark.parametrize(
    ("name", "role", "whose"),
    [pytest.param(*cell, id=f"{cell[0]}-{cell[1] or 'nobody'}-{cell[2]}") for cell in cells()],
)
def test_cell(world: World, name: str, role: Role | None, whose: str) -> None:
    """An operation is granted to the roles of the table. What is another tenant's does not exist, except for admins."""
    operation, roles = OPERATIONS[name], PERMISSIONS[name]
    caller = None if role is None else Caller(role)
    tenant = TENANT if whose == OWN else OTHER
    answer = operation.ask(world, caller, tenant)
    if roles is not None and role is None:
        assert answer.error == (401, 29)
    elif roles is not None and role not in roles:
        assert answer.error == (403, 30)
    elif whose == OWN or (role is Role.ADMIN and operation.for_admins):
        assert answer.status == operation.status, answer
        assert operation.has is None or operation.has(answer, world, tenant), answer
    else:
        if operation.absent is None:
            assert answer.status == operation.status
            assert operation.has is None or not operation.has(answer, world, tenant)
        else:
            assert answer.error == operation.absent
        assert answer.without_ids == operation.ask(world, caller, NOTHING).without_ids


def test_every_operation_has_its_cells() -> None:
    """The tests know every operation of the table of permissions, and what each names in its path."""
    assert set(OPERATIONS) == set(PERMISSIONS)
    app = web.Application()
    app[BASES] = Bases()
    add_routes(app)
    named = {"{id}": "job", "{token}": "attempt", "{worker_id}": "worker"}
    for route in app.router.routes():
        assert route.resource is not None
        path = route.resource.canonical
        about = {named[part] for part in path.split("/") if part in named and "/errors/" not in path}
        assert about <= {OPERATIONS[OPERATION_NAMES[route.handler]].about}, path
