"""The lines of a tokens file, and changes of it by several programs, by hand and in spite of interruptions."""

import errno
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from composerd.identity.roles import Role
from composerd.identity.tokens import changes, entries
from composerd.identity.tokens.changes import changing
from composerd.identity.tokens.entries import TokenTable, parse_table
from composerd_protocol.bearer_tokens import BearerToken

SALT = "00" * 16
ROLES = "worker, submitter, viewer, admin, monitor"
FORM = "must consist of 1 to 100 letters, digits and ._@:/+- after the first"
TIME = "a time must be written as 2026-01-31T12:00:00Z, or a day as 2026-01-31"
FIELDS = "it has something other than fields such as name=builder-7, or an unknown field"
INCOMPLETE = "hash is missing, or what else the line is to change: revoked or expires"
OTHER = "tokens of the name a have different roles or tenants"
HASH = f"hash=sha256:{SALT}:{'0' * 64}"
LINE = f"name=a role=worker created=2026-01-31T12:00:00Z id=AAAAAAAA {HASH}"


def create(path: Path, name: str = "builder", expires: float | None = None) -> BearerToken:
    """Add a token of a worker to a file."""
    with changing(path, create=True) as file:
        return file.create(name, Role.WORKER, "acme", expires)


def read(path: Path) -> TokenTable:
    """Return the tokens of a file."""
    return parse_table(path.read_bytes())


def test_create(tmp_path: Path) -> None:
    """A file that is made is for its owner only, and has what is needed to know a token, but not the token."""
    path = tmp_path / "tokens"
    until = time.time() + 60
    token = create(path, expires=until)
    assert path.stat().st_mode & 0o777 == 0o600
    assert token.text[18:] not in path.read_text()
    entry = read(path).by_id[token.id]
    assert (entry.name, entry.role, entry.tenant, entry.expires) == ("builder", "worker", "acme", int(until))
    assert entry.is_text(token.text)
    assert not entry.is_text(token.text[:-1] + "0")
    assert [entry.state(at) for at in (until - 2, until)] == ["valid", "expired"]


def test_several_changes_under_one_lock(tmp_path: Path) -> None:
    """A change comes after those that were made before it, and knows of them."""
    path = tmp_path / "tokens"
    with changing(path, create=True) as file:
        file.create("one", Role.WORKER, None, None)
        file.create("other", Role.WORKER, None, None)
        with pytest.raises(ValueError, match="there is a token of one"):
            file.create("one", Role.WORKER, None, None)
        file.revoke(file.not_revoked("one"))
        assert file.not_revoked("one") == []
    assert {entry.name: entry.revoked is None for entry in read(path).by_id.values()} == {"one": False, "other": True}


def test_salt(tmp_path: Path) -> None:
    """Each token has a salt of its own."""
    path = tmp_path / "tokens"
    ids = [create(path, f"builder-{number}").id for number in range(10)]
    assert len({read(path).by_id[id].salt for id in ids}) == 10


def test_names(tmp_path: Path) -> None:
    """A name is free again once its tokens are revoked, also for another role."""
    path = tmp_path / "tokens"
    first = create(path)
    with pytest.raises(ValueError, match="there is a token of builder"):
        create(path)
    with changing(path) as file:
        file.revoke(file.not_revoked("builder"))
        assert not path.read_text().endswith("\n\n")
    with changing(path) as file:
        second = file.create("builder", Role.ADMIN, None, None)
        assert [entry.id for entry in file.table.named("builder")] == [first.id, second.id]
    assert [entry.state(time.time()) for entry in read(path).named("builder")] == ["revoked", "valid"]
    assert read(path).by_id[second.id].role is Role.ADMIN


def test_rotate(tmp_path: Path) -> None:
    """Another token for an identity lets the first expire, at its own time if that is earlier."""
    path = tmp_path / "tokens"
    first = create(path, expires=1000.0)
    with changing(path) as file:
        second = file.rotate("builder", None, 2000.0)
    with changing(path) as file:
        third = file.rotate("builder", 9000.0, 3000.0)
    by_id = read(path).by_id
    assert [by_id[token.id].expires for token in (first, second, third)] == [1000, 3000, 9000]
    assert {(by_id[token.id].role, by_id[token.id].tenant) for token in (first, second, third)} == {("worker", "acme")}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name=a", f"line 1: {INCOMPLETE}"),
        ("\n\ncomposerd_abc", f"line 3: {FIELDS}"),
        (f"{LINE} color=red", f"line 1: {FIELDS}"),
        (f"{LINE} role=admin", "line 1: it has role twice"),
        (LINE.replace("role=worker", "role=king"), f"line 1: role is not one of {ROLES}"),
        (LINE.replace("role=worker ", ""), "line 1: role is missing"),
        (LINE.replace("name=a", "name="), f"line 1: name {FORM}"),
        (f"{LINE} tenant=-", f"line 1: tenant {FORM}"),
        (LINE.replace("AAAAAAAA", "AAAA"), "line 1: id must consist of 8 letters or digits"),
        (LINE[:-1], "line 1: hash is not sha256, a salt and a digest in hexadecimal"),
        (LINE.replace("12:00:00Z", "noon"), f"line 1: {TIME}"),
        (f"{LINE} expires=2026-01-31T12:00:00", f"line 1: {TIME}"),
        (f"{LINE} expires=0001-01-01T00:00:00+23:00", f"line 1: {TIME}"),
        (f"{LINE} expires=9999-12-31T23:00:00-02:00", f"line 1: {TIME}"),
        (f"{LINE} revoked=2026-01-31", "line 1: revoked belongs into a line without hash"),
        (f"{LINE}\n{LINE}", "line 2: the id AAAAAAAA is that of an earlier line too"),
        (f"{LINE}\nid=AAAAAAAA", f"line 2: {INCOMPLETE}"),
        (f"{LINE}\nid=AAAAAAAA revoked=now", f"line 2: {TIME}"),
        (f"{LINE}\nid=AAAAAAAA role=admin expires=never", "line 2: role does not belong into a line without hash"),
        (f"{LINE}\n{LINE.replace('AAAAAAAA', 'BBBBBBBB')} tenant=t", OTHER),
        ("name=é", "line 1: it has characters that are not ASCII"),
    ],
)  # fmt: skip
def test_mistakes(text: str, problem: str) -> None:
    """A mistake is named with its line, without what may be secret."""
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}$"):
        parse_table(f"{text}\n".encode())


def test_by_hand() -> None:
    """Comments, days, any order of the fields, and lines that change a token which is no more are allowed."""
    table = parse_table(
        f"# \u00e9\n\n  {HASH} id=AAAAAAAA created=2026-01-31 name=a role=viewer expires=2027-01-31 # mine\r\n"
        "id=AAAAAAAA expires=never\nid=BBBBBBBB revoked=2026-01-31\n".encode()
    )
    (entry,) = table.by_id.values()
    assert (entry.created, entry.expires, entry.revoked) == (1769817600, None, None)


def test_without_a_last_line_feed(tmp_path: Path) -> None:
    """A last line that is whole counts without its line feed too, and stays when another one is added."""
    path = tmp_path / "tokens"
    path.write_text(LINE)
    path.chmod(0o600)
    assert "AAAAAAAA" in read(path).by_id
    token = create(path)
    assert list(read(path).by_id) == ["AAAAAAAA", token.id]


@pytest.mark.parametrize("rest", [LINE[:40], LINE[:-1], "\0\0\0", "na"])
def test_interrupted_writing(tmp_path: Path, rest: str) -> None:
    """A part of a line that a machine has left when it failed counts for nothing, and makes room for the next line."""
    path = tmp_path / "tokens"
    path.write_text(f"{LINE}\n{rest.replace('AAAAAAAA', 'BBBBBBBB')}")
    path.chmod(0o600)
    table = read(path)
    assert (list(table.by_id), table.unfinished) == (["AAAAAAAA"], len(rest))
    token = create(path)
    assert (list(read(path).by_id), read(path).unfinished) == (["AAAAAAAA", token.id], 0)


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token for which there is no room leaves the file as it was."""
    path = tmp_path / "tokens"
    create(path)
    before = path.read_bytes()
    write = os.pwrite

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if len(data) < 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[:-50], offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(OSError, match="No space left"):
        create(path, "other")
    assert path.read_bytes() == before


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with more tokens, or more bytes, than it may have is refused, and so is a token that makes it so."""
    path = tmp_path / "tokens"
    create(path, "a")
    create(path, "b")
    for module in (entries, changes):
        monkeypatch.setattr(module, "MOST_TOKENS", 2)
    with pytest.raises(ValueError, match="there are 2 tokens: delete"):
        create(path, "c")
    monkeypatch.setattr(entries, "MOST_TOKENS", 1)
    with pytest.raises(ValueError, match="line 4: there are more than 1 tokens"):
        create(path, "c")
    monkeypatch.undo()
    monkeypatch.setattr(changes, "LARGEST", path.stat().st_size + 100)
    with pytest.raises(ValueError, match="it would be larger than"):
        create(path, "c")
    monkeypatch.setattr(changes, "LARGEST", 100)
    with pytest.raises(ValueError, match="it is larger than 100 bytes"):
        create(path, "c")


def test_others_who_can_write(tmp_path: Path) -> None:
    """A file that others can write to is not changed either: somebody might have added a token."""
    path = tmp_path / "tokens"
    create(path)
    path.chmod(0o660)
    with pytest.raises(ValueError, match="other users can write to it"):
        create(path, "other")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_file_of_the_servers_user(tmp_path: Path) -> None:
    """Root can add tokens to the file of the user that the server runs as, and it stays that user's."""
    path = tmp_path / "tokens"
    create(path)
    os.chown(path, 65534, 65534)
    create(path, "other")
    assert (path.stat().st_uid, len(read(path).by_id)) == (65534, 2)


def test_several_programs(tmp_path: Path) -> None:
    """Programs that add tokens at the same time lose none, also while an editor puts another file in its place."""
    path = tmp_path / "tokens"
    program = (
        "import sys, pathlib\nfrom composerd.identity.tokens.changes import changing\n"
        "for number in range(10):\n with changing(pathlib.Path(sys.argv[1]), create=True) as file:\n"
        "  file.create(f'{sys.argv[2]}-{number}', 'worker', None, None)\n"
    )
    programs = [subprocess.Popen([sys.executable, "-c", program, path, f"program-{number}"]) for number in range(4)]
    for _ in range(20):
        with changing(path, create=True) as file:  # an editor that waits for the lock, and replaces the file
            other = tmp_path / "edited"
            other.write_bytes(path.read_bytes())
            other.chmod(0o600)
            other.replace(path)
            del file
    assert [one.wait() for one in programs] == [0] * 4
    names = {entry.name for entry in read(path).by_id.values()}
    assert names == {f"program-{one}-{number}" for one in range(4) for number in range(10)}
