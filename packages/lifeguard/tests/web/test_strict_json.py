"""How a client's JSON is read: what is refused, where the fault is said to be, and what it costs at most."""

import json
import sys
import tracemalloc
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifeguard.web.strict_json import (
    LARGEST_DOCUMENT,
    MOST_CONTAINERS,
    MOST_DEPTH,
    MOST_VALUES,
    JSONRefused,
    read,
)
from starlette.exceptions import HTTPException

MOST_MEMORY = 16 * 2**20
OBJECT = b'{"a":"'
"""The beginning of an object with a text."""


def array(item: bytes, number: int) -> bytes:
    return b"[" + b",".join([item] * number) + b"]"


def nested(depth: int) -> bytes:
    return b'[{"a":' * (depth // 2) + b"1" + b"}]" * (depth // 2)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(), inner, max_size=9),
    max_leaves=60,
)


@given(JSON, st.booleans())
def test_all_else_is_read_as_json_loads_reads_it(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    if ascii_only or text.isascii():
        assert read(text.encode()) == value
    assert read(text) == value


@given(st.binary(max_size=60) | st.text(alphabet='"\\u{}[],:019ade.-NI \ud800', max_size=60))
def test_whatever_comes_is_read_or_refused(document: bytes | str) -> None:
    try:
        value = read(document)
    except (JSONRefused, HTTPException):
        return
    assert value == json.loads(document)


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        ('{"a": 1, "a": 1}', "#/a"),
        ('[1, {"b": [{"c~/d": 1, "e": 2, "c~/d": 3}]}]', "#/1/b/0/c~0~1d"),
        ('{"x": {"y": 1, "y": 2}, "x": 3}', "#/x/y"),
        ('{"x": {}, "z": [{"": 0, "": 0}], "x": 3}', "#/x"),
        ('{"z": [{"": 0, "": 0}]}', "#/z/0/"),
        (r'{"a": 1, "\u0061": 2}', "#/a"),
    ],
)
def test_a_member_that_is_there_twice_is_pointed_at(document: str, pointer: str) -> None:
    with pytest.raises(JSONRefused, match="two members") as refused:
        read(document)
    assert refused.value.pointer == pointer


@pytest.mark.parametrize(
    "document",
    [
        *("NaN", "[Infinity]", "-Infinity", "1e999999", "-1e400", "9" * 10_000, "[-" + "1" * 5000 + "]"),
        *("1_0", "+1", "01", "1.", ".5", "0x1", "\u0661\u0662", "\uff11", "'a'", "[1,]", '{"a":1,}', "{a:1}"),
        *("", " ", "// 1\n1", "1 2", '"\n"', r'"\x41"', "tru", '{"a":1', "nul\u0000l"),
        *(r'"\ud800"', r'"\ude00"', r'"\ud83d\ud83d\ude00"', r'"\ud83d\ude00\ude00"', r'{"\uD800": 1}'),
        *("\ufeff1", "\ufeff"),
    ],
)
def test_what_is_no_json_or_no_number_or_no_text_is_refused(document: str) -> None:
    with pytest.raises(JSONRefused) as refused:
        read(document.encode())
    assert len(str(refused.value)) < 100


@pytest.mark.parametrize("document", [r'"\\ud800"', r'"\ud83d\ude00"', r'"\\\\\\ude00"', r'"\uD83D\uDE00x"'])
def test_escapes_that_only_look_like_half_a_character_are_read(document: str) -> None:
    assert read(document) == json.loads(document)


@pytest.mark.parametrize("document", [b"\xff", b'"\xed\xa0\x80"', '"a"'.encode("utf-16"), b"\x00[\x00]"])
def test_what_is_no_utf_8_is_refused(document: bytes) -> None:
    with pytest.raises((HTTPException, JSONRefused)):
        read(document)


@pytest.mark.parametrize(
    ("most", "more"),
    [
        (array(b"1", MOST_VALUES - 1), array(b"1", MOST_VALUES + 1)),
        (array(b"{}", MOST_CONTAINERS - 1), array(b"{}", MOST_CONTAINERS + 1)),
        (array(b'"[{,\\"]"', MOST_VALUES - 1), array(b'"[{,\\"]"', MOST_VALUES + 1)),
        (nested(MOST_DEPTH), nested(MOST_DEPTH + 2)),
        (b'"' + b'[{,\\"' * 9000 + b'"', b"[" * 100_000),
        (b'"' + b"x" * (LARGEST_DOCUMENT - 2) + b'"', b'"' * LARGEST_DOCUMENT),
    ],
    ids=["values", "containers", "values that are texts", "depth", "brackets and commas in texts", "bytes"],
)
def test_is_bounded_in_what_is_made_of_it(most: bytes, more: bytes) -> None:
    assert read(most) == json.loads(most)
    with pytest.raises(JSONRefused):
        read(more)


def test_is_bounded_in_bytes() -> None:
    with pytest.raises(HTTPException) as refused:
        read(b'"' + b"x" * LARGEST_DOCUMENT)
    assert refused.value.status_code == 413


@pytest.mark.parametrize(
    "document",
    [
        array(b'"ab"', LARGEST_DOCUMENT // 5),
        array(b"1", LARGEST_DOCUMENT // 2 - 1),
        array(b'"' + b"x" * 120 + b'"', MOST_VALUES - 1),
        array(OBJECT + b"x" * 490 + b'"}', MOST_CONTAINERS - 1),
        b'["' + "\U0001f600".encode() + b"x" * (LARGEST_DOCUMENT - 20) + b'"]',
        b'["' + rb"\ud83d\ude00" * 87_000 + b'"]',
        b'["' + rb"\\" * (LARGEST_DOCUMENT // 2 - 10) + b'"]',
        b'"' * LARGEST_DOCUMENT,
        b"[" + array(b"[]", 40) + b',"' + rb"\"" * (LARGEST_DOCUMENT // 2 - 100) + b'"]',
    ],
    ids=[
        "texts",
        "numbers",
        "most texts",
        "most objects",
        "wide",
        "escapes",
        "backslashes",
        "quotes",
        "escaped",
    ],
)
def test_is_bounded_in_memory(document: bytes) -> None:
    tracemalloc.start()
    try:
        read(document)
    except JSONRefused:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < MOST_MEMORY - 2 * LARGEST_DOCUMENT  # the document itself, in chunks and whole


SAME_HASH = [n * sys.hash_info.modulus + 7 for n in range(1, 300)]
DECIMALS = [f"{7 * pow(10, -n, sys.hash_info.modulus) % sys.hash_info.modulus}E{n}" for n in range(300)]


@pytest.mark.parametrize(
    "values",
    [
        SAME_HASH,
        [-number for number in SAME_HASH],
        list(map(str, SAME_HASH)),
        [f" {number:_}.0" for number in SAME_HASH],
        [str(UUID(int=number)) for number in SAME_HASH],
        [UUID(int=number).urn for number in SAME_HASH],
        [f"{{{UUID(int=number).hex.upper()}}}" for number in SAME_HASH],
        DECIMALS,
    ],
    ids=["ints", "negative", "texts", "spelled", "uuids", "urns", "hex", "decimals"],
)
def test_numbers_that_only_comparisons_tell_apart_are_refused(values: list[object]) -> None:
    """Each is compared with all before it, in a set or as keys: thousands in one body stop everybody."""
    documents: list[object] = [values, {str(value): [] for value in values}]
    for document in documents:
        with pytest.raises(JSONRefused, match="the same hash"):
            read(json.dumps(document))


@pytest.mark.parametrize(
    "values",
    [
        [SAME_HASH[0]] * 500,
        [str(UUID(int=SAME_HASH[0]))] * 500,
        [1789123456789012345 + 4096 * n for n in range(1000)],
        [str(uuid4()) for _ in range(500)],
        [f"{n}.1234567890123456789" for n in range(500)],
        ["1" * 5000] * 50,
    ],
    ids=["one number", "one uuid", "ids by time", "uuids", "decimals", "long"],
)
def test_numbers_as_they_come_are_read(values: list[object]) -> None:
    assert read(json.dumps(values)) == values
