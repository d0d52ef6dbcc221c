"""Tokens of pages."""

import re

from hypothesis import given
from hypothesis import strategies as st

from app.ledger import cursors


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_token_leads_back_to_its_id(last_id: int) -> None:
    token = cursors.encode(last_id)
    assert re.fullmatch(cursors.PATTERN, token)
    assert cursors.decode(token) == last_id


@given(st.from_regex(cursors.PATTERN, fullmatch=True))
def test_every_token_of_the_right_form_leads_somewhere(token: str) -> None:
    assert -(2**63) <= cursors.decode(token) < 2**63
