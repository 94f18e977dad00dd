r"""Lists of patterns, as osbuild-composer has them.

What is expected was compared with what its authentication handler does, whose patterns are those of Go.
"""

import pytest

from composerd.identity.jwt.acl import parse_acl

# The example of osbuild-composer's documentation.
EXAMPLE = rb"""
- claim: email
  pattern: ^.*@redhat\.com$
- claim: sub
  pattern: ^f:b3f7b485-7184-43c8-8169-37bd6d1fe4aa:myuser$
- claim: account_number
  pattern: ^(1000|1001|1002)$
- claim: account_id
  pattern: ^(5000|5005)$
"""


@pytest.mark.parametrize(
    ("claims", "permitted"),
    [
        ({"email": "ann@redhat.com"}, True),
        ({"email": "ann@redhat.com\n"}, False),
        ({"email": "ann@redhatxcom"}, False),
        ({"email": "ann@redhat.com.example.com", "account_id": "5005"}, True),
        ({"account_number": "1001"}, True),
        ({"email": "a" * 1013 + "@redhat.com"}, True),
        ({"email": "a" * 1014 + "@redhat.com"}, False),
        ({"account_number": 1001}, False),
        ({"account_number": ["1001"]}, False),
        ({"account_number": "11001"}, False),
        ({"nested": {"account_id": "5000"}}, False),
        ({}, False),
    ],
)
def test_the_example(claims: dict[str, object], permitted: bool) -> None:
    """A token passes if one of the patterns matches a claim at the top that is a text."""
    assert parse_acl(EXAMPLE).permits(claims) is permitted


@pytest.mark.parametrize(
    ("pattern", "value", "found"),
    [
        ("acme", "the acme company", True),
        ("^a$", "a", True),
        ("^a$", "a\n", False),
        ("^a$|^b$", "b\n", False),
        (r"^a\$", "a$b", True),
        ("^[$]$", "$", True),
        ("^[^]$]$", "x", True),
        (r"\d", "\u0663", False),
        (r"^\w+$", "\u00e4", False),
        ("(?i)^ACME$", "acme", True),
        ("", "anything", True),
    ],
)
def test_patterns_match_as_in_go(pattern: str, value: str, found: bool) -> None:
    """A pattern is searched for, its `$` is the end of the text, and its classes are of ASCII."""
    acl = parse_acl(f"- claim: a\n  pattern: '{pattern}'\n".encode())
    assert acl.permits({"a": value}) is found


def test_the_last_pattern_of_a_claim_counts() -> None:
    """Of several patterns for one claim only the last counts, and unknown members do not matter."""
    acl = parse_acl(b"- {claim: a, pattern: x, comment: y}\n- {claim: a, pattern: z}\n")
    assert not acl.permits({"a": "x"})
    assert acl.permits({"a": "z"})


def test_no_patterns() -> None:
    """An empty list lets every token pass."""
    assert parse_acl(b"[]").permits({})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"not a list of items .*; write \[\] to let every token pass"),
        (b"# nothing yet\n", "not a list of items"),
        (b"claim: a\npattern: b\n", "not a list of items"),
        (b"- a: [\n", "not YAML: see line"),
        (b"\xff\xfe\xff", "not YAML"),
        (b"- !!python/object/apply:os.system [true]\n", "not YAML"),
        (b"- !!bool maybe\n", "not YAML"),
        (b'- !!int ""\n', "not YAML"),
        (b"- !!timestamp today\n", "not YAML"),
        (b"- 2026-13-01\n", "not YAML"),
        (b"- claim: a\n", "item 1 needs a `claim` and a `pattern`"),
        (b"- {claim: a, pattern: x}\n- {claim: b, pattern: 1000}\n", "item 2 needs .* in quotes"),
        (b"- {claim: a, pattern: '('}\n", "the pattern of item 1 is not a regular expression"),
        (b"- {claim: a, pattern: '[[:alpha:]]'}\n", "the pattern of item 1 is not a regular expression"),
        (rb"- {claim: a, pattern: '\pL'}" + b"\n", "the pattern of item 1 is not a regular expression"),
        (rb"- {claim: a, pattern: '^\Qa.b\E'}" + b"\n", "the pattern of item 1 is not a regular expression"),
    ],
)
def test_files_that_are_refused(content: bytes, said: str) -> None:
    """A file that is not such a list, or has a pattern that means something else here, is refused with its place."""
    with pytest.raises(ValueError, match=said):
        parse_acl(content)
