"""Request bodies: JSON syntax, depth and shape, and opaque parts that stay as they are."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composerd.errors import InvalidContent, MalformedJSON
from composerd.http import bodies, schemas
from composerd.http.bodies import MAX_DEPTH, check_content_type, decode, too_deep
from composerd.http.errors import UnsupportedMediaType

UPDATE = msgspec.json.Decoder(schemas.UpdateJob)


def depth_of(body: bytes) -> int:
    """Return how deep JSON is nested, counted byte by byte, to compare the fast check with."""
    deepest = depth = 0
    in_string = escaped = False
    for byte in body:
        char = chr(byte)
        if escaped:
            escaped = False
        elif in_string:
            escaped = char == "\\"
            in_string = char != '"'
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "]}":
            depth -= 1
    return deepest


leaves = st.sampled_from(['"', "[[[", "\\", '\\"', '"[{"', "a", "]", "é", "{\\\\"]) | st.integers()
trees = st.recursive(
    leaves, lambda child: st.lists(child, max_size=3) | st.dictionaries(st.text(max_size=3), child, max_size=3)
)


@settings(max_examples=400, deadline=None)
@given(
    tree=trees,
    around=st.integers(MAX_DEPTH - 4, MAX_DEPTH + 2),
    slice_size=st.integers(1, 64),
)
def test_the_depth_check_agrees_with_counting(tree: object, around: int, slice_size: int) -> None:
    """The depth check ignores brackets in strings, respects escapes, and does not depend on where slices are cut."""
    for levels in (0, around):
        body = b"[" * levels + msgspec.json.encode(tree) + b"]" * levels
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bodies, "_SLICE", slice_size)
            assert too_deep(body) == (depth_of(body) > MAX_DEPTH)


@pytest.mark.parametrize("slice_size", [1, 3, 64])
def test_positions_do_not_depend_on_slices(monkeypatch: pytest.MonkeyPatch, slice_size: int) -> None:
    """The position of bytes that are not UTF-8, and of half a surrogate pair, is the same wherever slices are cut."""
    monkeypatch.setattr(bodies, "_SLICE", slice_size)
    for before in ("", "é" * 20, "x" * 7, "\\\\" * 5, r"\ud83d\ude00" * 4, r"\\ud83d" * 3):
        text = f'{{"result":"{before}'.encode()
        assert isinstance(decode(text + b'"}', UPDATE).result, msgspec.Raw)
        for wrong, problem in ((b"\xff", "must be UTF-8"), (rb"\ud83d", "half of a surrogate pair")):
            with pytest.raises(MalformedJSON) as failed:
                decode(text + wrong + b'"}', UPDATE)
            assert failed.value.details == {"problem": problem, "at": len(text)}


def test_the_deepest_that_is_taken() -> None:
    """JSON nested 500 deep is accepted and 501 deep is refused, whatever the interpreter's own limit is."""
    inner = MAX_DEPTH - 1
    body = b'{"result":' + b"[" * inner + b"]" * inner + b"}"
    assert bytes(decode(body, UPDATE).result) == body[10:-1]  # type: ignore[arg-type]
    with pytest.raises(InvalidContent):
        decode(b'{"result":[' + b"[" * inner + b"]" * inner + b"]}", UPDATE)


@pytest.mark.parametrize(
    "value",
    [
        b"null",
        b"1e400",
        b"-0.0e-0",
        b"1" * 5000,
        b'{"b": 1, "a": 2, "b": 3}',
        rb'"\u0000\ud83d\ude00\/"',
        b'[1.50, "\xc3\xa9" ,\t{}]',
    ],
)
def test_opaque_values_stay_as_they_are(value: bytes) -> None:
    """Opaque values are kept byte for byte, with their order, spelling, repeated keys and long numbers."""
    body = b'{ "result" : ' + value + b' , "more": [] }'
    assert bytes(decode(body, UPDATE).result) == value  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "at"),
    [
        (b'{"result":"\xff"}', 11),
        (b"\xef\xbb\xbf{}", 0),
        (b'{"result":NaN}', 10),
        (b'{"result":-Infinity}', 11),
        (rb'{"result":"\ude00"}', None),
        (rb'{"result":"\ud800"}', None),
        (b'{"result":1} {}', None),
        (b'{"result":1,}', None),
        (b'{"result":01}', 11),
        (b'{"result":"\x01"}', None),
        (b"", None),
        (b"[1, nul]", None),
    ],
)
def test_what_is_no_json_is_refused_with_its_place(body: bytes, at: int | None) -> None:
    """Bad UTF-8, a byte order mark, NaN, lone surrogates and trailing data are malformed JSON, with the position."""
    with pytest.raises(MalformedJSON) as refused:
        decode(body, UPDATE)
    assert refused.value.details["problem"]
    if at is not None:
        assert refused.value.details["at"] == at


def test_a_wrong_shape_names_the_field() -> None:
    """JSON of the wrong shape is invalid content, and the error names the field."""
    with pytest.raises(InvalidContent) as refused:
        decode(b'{"types":["a",1],"arch":"x"}', msgspec.json.Decoder(schemas.RequestJob))
    assert refused.value.details["field"] == "types[1]"
    with pytest.raises(InvalidContent) as refused:
        decode(b'{"type":"a","colour":1}', msgspec.json.Decoder(schemas.SubmitJob))
    assert "colour" in refused.value.details["problem"]


@pytest.mark.parametrize(
    "value",
    ["application/json", "application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"', "application/json;"],
)
def test_json_content_types(value: str) -> None:
    """A content type that means JSON in UTF-8 is accepted in every spelling."""
    check_content_type(value)


@pytest.mark.parametrize(
    "value",
    ["", "text/json", "application/json; charset=latin-1", "application/json; charset=bogus", "application/jsonx"],
)
def test_other_content_types_are_refused(value: str) -> None:
    """Every other content type is refused."""
    with pytest.raises(UnsupportedMediaType):
        check_content_type(value)
