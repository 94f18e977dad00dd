"""The files that map certificates, users and groups to identities, and the names that match."""

from typing import Any

import pytest

from composerd.identity.certificates import CertificateEntry, Names, parse_certificates
from composerd.identity.roles import Role
from composerd.identity.unix_peers import Peer, overflow, parse_peers
from composerd.identity.values import Identity


def certificate(*names: tuple[str, str], common: str | None = None) -> dict[str, Any]:
    """Return a certificate as the `ssl` module shows it."""
    return {"subject": ((("commonName", common),),) if common else (), "subjectAltName": names}


@pytest.mark.parametrize(
    ("field", "pattern", "shown", "matched"),
    [
        ("dns", "a.example", certificate(("DNS", "a.example")), "a.example"),
        ("dns", "a.example", certificate(("DNS", "x.example"), ("DNS", "A.Example")), "a.example"),
        ("dns", "*.example", certificate(("DNS", "a.example")), "a.example"),
        ("dns", "*.example", certificate(("DNS", "a.b.example")), None),
        ("dns", "a.example", certificate(("DNS", "a.example.evil")), None),
        ("dns", "a.example", certificate(common="a.example"), None),
        ("dns", "a.example", certificate(("URI", "a.example"), ("email", "a.example")), None),
        ("cn", "a.example", certificate(common="a.example"), "a.example"),
        ("cn", "a.example", certificate(("DNS", "a.example")), None),
        ("cn", "*.example", certificate(common="a.example"), None),
        ("uri", "spiffe://a.example/ci", certificate(("URI", "spiffe://a.example/ci")), "spiffe://a.example/ci"),
        ("uri", "spiffe://a.example/ci", certificate(("URI", "spiffe://a.example/ci/x")), None),
        ("uri", "spiffe://a.example/ci", certificate(("URI", "spiffe://a.example/CI")), None),
        (
            "uri",
            "spiffe://a.example/ci/*",
            certificate(("URI", "spiffe://a.example/ci/x/y")),
            "spiffe://a.example/ci/x/y",
        ),
        ("uri", "spiffe://a.example/ci/*", certificate(("URI", "spiffe://a.example/ci")), None),
        ("uri", "spiffe://a.example/ci/*", certificate(("URI", "spiffe://a.example/ci/")), None),
        ("uri", "spiffe://a.example/ci/*", certificate(("URI", "spiffe://a.example/ci/../admin")), None),
        ("uri", "spiffe://a.example/ci/*", certificate(("URI", "spiffe://a.example/ci/./x")), None),
        ("uri", "spiffe://a.example/*", certificate(("URI", "spiffe://a.example.evil/ci")), None),
        ("uri", "spiffe://a.example/*", certificate(("URI", "SPIFFE://a.example/ci")), None),
        ("uri", "spiffe://a/x", certificate(("URI", "spiffe://a/x"), ("URI", "spiffe://a/y")), None),
        ("uri", "urn:ci:7", certificate(("URI", "urn:ci:7"), ("URI", "urn:ci:8")), "urn:ci:7"),
        ("dns", "a.example", certificate(), None),
        ("cn", "a b", certificate(common="a b"), None),
        ("cn", "x" * 300, certificate(common="x" * 300), None),
    ],
)
def test_names_that_match(field: str, pattern: str, shown: dict[str, Any], matched: str | None) -> None:
    """An entry is about certificates with its name, of its kind only, and the name that matched is returned."""
    assert CertificateEntry(role=Role.WORKER, **{field: pattern}).name_in(Names(shown)) == matched


def test_the_entries_of_a_file() -> None:
    """Entries keep their order, and have a role, and a tenant and a name if they say so."""
    content = b"""
        [[identity]]
        dns = "*.acme.example"
        role = "worker"
        tenant = "acme"
        [[identity]]
        cn = "operator"
        role = "admin"
        name = "ops"
    """
    assert list(parse_certificates(content)) == [
        CertificateEntry(dns="*.acme.example", role=Role.WORKER, tenant="acme"),
        CertificateEntry(cn="operator", role=Role.ADMIN, name="ops"),
    ]
    assert list(parse_certificates(b"# nobody yet\n")) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[[identity]\n", "Expected"),
        (b"\xff", "utf-8"),
        (b'[[identity]]\ndns = "a"\n', "its role has to be one of worker, submitter, viewer, admin, monitor$"),
        (b'[[identity]]\ndns = "a"\nrole = "boss"\n', "in table 1 .*: its role has to be one of worker, submitter, "),
        (b'[[identity]]\ndns = "a"\nrole = ["worker"]\n', "its role has to be one of"),
        (
            b'[[identity]]\ndns = "a"\nrole = "worker"\nowner = "x"\n',
            "it has 'owner', but the fields are role, tenant, name, dns, uri, cn$",
        ),
        (b'[[identity]]\ndns = 5\nrole = "worker"\n', "in table 1 .*at `\\$\\.dns`"),
        (b'[[identity]]\nrole = "worker"\n', "exactly one of dns, uri, cn"),
        (b'[[identity]]\ndns = "a"\ncn = "a"\nrole = "worker"\n', "exactly one of dns, uri, cn"),
        (b'[[identity]]\ndns = "a..b"\nrole = "worker"\n', "'a..b' is not a domain"),
        (b'[[identity]]\ndns = "a.*"\nrole = "worker"\n', "is not a domain"),
        (b'[[identity]]\nuri = "spiffe://a/../b"\nrole = "worker"\n', "is not a URI"),
        (b'[[identity]]\nuri = "spiffe://*/b"\nrole = "worker"\n', "is not a URI"),
        (b'[[identity]]\nuri = "a b"\nrole = "worker"\n', "is not a URI"),
        (b'[[identity]]\ndns = "a"\nrole = "worker"\ntenant = "a b"\n', "tenant 'a b' has white space"),
        (b'[[identity]]\ndns = "a"\nrole = "worker"\ntenant = ""\n', "length >= 1"),
        (b'[[identity]]\ndns = "a"\nrole = "worker"\nname = "a\\u0007"\n', "not printable"),
        (b'[identity]\ndns = "a"\nrole = "worker"\n', "has to begin with \\[\\[identity\\]\\], in two brackets"),
        (b"identity = [1]\n", "has to begin with \\[\\[identity\\]\\], in two brackets"),
        (b'[[identities]]\ndns = "a"\nrole = "worker"\n', "it has 'identities'"),
    ],
)
def test_a_wrong_file_of_certificates(content: bytes, said: str) -> None:
    """A mistake in the file is a `ValueError` that names it."""
    with pytest.raises(ValueError, match=said):
        parse_certificates(content)


def test_users_and_groups() -> None:
    """Users and groups are named or numbered, and the first entry that is about a peer counts."""
    content = b"""
        [[identity]]
        user = "daemon"
        role = "worker"
        tenant = "acme"
        [[identity]]
        user = 4711
        role = "viewer"
        [[identity]]
        group = "daemon"
        role = "submitter"
        [[identity]]
        group = 4712
        role = "monitor"
        name = "scraper"
    """
    entries = parse_peers(content)

    def found(user: int, *groups: int) -> Identity | None:
        peer = Peer(user, frozenset(groups))
        return next((identity for entry in entries if (identity := entry.identity(peer)) is not None), None)

    assert found(1, 1, 4712) == Identity("daemon", Role.WORKER, "acme", "socket")
    assert found(4711, 1) == Identity("uid-4711", Role.VIEWER, None, "socket")
    assert found(5000, 4712, 1) == Identity("uid-5000", Role.SUBMITTER, None, "socket")
    assert found(5000, 4712) == Identity("scraper", Role.MONITOR, None, "socket")
    assert found(5000, 5000) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'[[identity]]\nuser = "nobody-has-this"\nrole = "worker"\n', "there is no user 'nobody-has-this'"),
        (b'[[identity]]\ngroup = "nobody-has-this"\nrole = "worker"\n', "there is no group 'nobody-has-this'"),
        (f'[[identity]]\nuser = {overflow("uid")}\nrole = "worker"\n'.encode(), "it may not be mapped"),
        (f'[[identity]]\ngroup = {overflow("gid")}\nrole = "worker"\n'.encode(), "it may not be mapped"),
        (b'[[identity]]\nuser = 1\ngroup = 1\nrole = "worker"\n', "exactly one of user, group"),
        (b'[[identity]]\nuser = true\nrole = "worker"\n', "Expected `int | str"),
        (b'[[identity]]\nuser = -1\nrole = "worker"\n', ">= 0"),
    ],
)
def test_a_wrong_file_of_users(content: bytes, said: str) -> None:
    """A user or group that does not exist, or that stands for those of other user namespaces, is a mistake."""
    with pytest.raises(ValueError, match=said):
        parse_peers(content)
