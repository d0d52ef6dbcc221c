"""Positions in the WAL become tokens and come back; what nobody here has signed does not."""

from base64 import urlsafe_b64decode, urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifeguard.database import InvalidToken, Position
from lifeguard.database.position import _end
from lifeguard.database.replay import ReplayWaiters
from lifeguard.database.tokens import LENGTH, Tokens

POSITION = Position(3, 0x1_2345_6789, 1_800_000_000.0)
MINE = Tokens(["a secret"], service="ledger", database="")


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.text(min_size=1))
def test_a_position_comes_back_as_it_was(timeline: int, lsn: int, noted_at: int, secret: str) -> None:
    tokens = Tokens([secret], service="ledger", database="")
    position = Position(timeline, lsn, float(noted_at))
    token = tokens.write(position)
    assert tokens.read(token) == position
    assert len(token) == LENGTH


@given(st.integers(0, LENGTH - 1), st.sampled_from("AZaz09-_"))
def test_a_token_of_which_one_character_is_another_is_invalid(at: int, character: str) -> None:
    token = MINE.write(POSITION)
    changed = token[:at] + character + token[at + 1 :]
    if changed != token:
        with pytest.raises(InvalidToken):
            MINE.read(changed)


@given(
    st.text(max_size=100)
    | st.text(alphabet="AZaz09-_=+/ ", min_size=LENGTH, max_size=LENGTH)
    | st.binary(min_size=33, max_size=33).map(lambda raw: urlsafe_b64encode(raw).decode())
)
def test_garbage_is_invalid(text: str) -> None:
    with pytest.raises(InvalidToken):
        MINE.read(text)


@pytest.mark.parametrize(
    "other",
    [
        Tokens(["another secret"], service="ledger", database=""),
        Tokens(["a secret"], service="orders", database=""),
        Tokens(["a secret"], service="ledger", database="reports"),
        Tokens(["a secret"], service="ledgerreports", database=""),
    ],
    ids=["secret", "service", "database", "joined"],
)
def test_a_token_of_something_else_is_invalid(other: Tokens) -> None:
    with pytest.raises(InvalidToken):
        MINE.read(other.write(POSITION))


def test_a_token_of_another_version_is_invalid() -> None:
    raw = bytearray(urlsafe_b64decode(MINE.write(POSITION)))
    raw[0] = 2
    with pytest.raises(InvalidToken):
        MINE.read(urlsafe_b64encode(raw).decode())


def test_a_secret_is_changed_without_a_client_losing_its_token() -> None:
    """First every instance accepts the new one, then they sign by it, then the old one is forgotten."""
    old = Tokens(["old"], service="ledger", database="")
    first = Tokens(["old", "new"], service="ledger", database="")
    then = Tokens(["new", "old"], service="ledger", database="")
    assert first.read(then.write(POSITION)) == then.read(first.write(POSITION)) == POSITION
    assert first.write(POSITION) == old.write(POSITION)
    with pytest.raises(InvalidToken):
        old.read(then.write(POSITION))


@pytest.mark.parametrize(
    ("place", "offset", "end"),
    [
        (0x2000100, 0x100, 0x2000100),  # amid a page
        (0x2004018, 0x4018, 0x2004000),  # behind the header of a page
        (0x2000028, 0x28, 0x2000000),  # behind that of a segment's first page
        (0x2004028, 0x4028, 0x2004028),  # no header is so long there: a record ends
    ],
)
def test_a_position_is_where_the_last_record_ends_and_not_where_the_next_begins(
    place: int, offset: int, end: int
) -> None:
    """On an idle primary a standby would never come to be behind the header of a page."""
    assert _end(place, offset, 8192) == end


async def test_who_waits_for_less_is_served_first_and_who_has_gone_is_not() -> None:
    waiters = ReplayWaiters()
    assert not waiters
    far, near, gone = waiters.add(30), waiters.add(10), waiters.add(5)
    gone.cancel()
    waiters.note(9)
    assert not near.done()
    waiters.note(10)
    assert near.done()
    assert not far.done()
    assert waiters
    far.cancel()
    assert not waiters
