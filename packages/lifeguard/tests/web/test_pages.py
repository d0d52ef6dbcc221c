"""Tokens of pages."""

import re

from hypothesis import given
from hypothesis import strategies as st
from lifeguard.web import pages


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_token_leads_back_to_its_id(last_id: int) -> None:
    token = pages.encode(last_id)
    assert re.fullmatch(pages.PATTERN, token)
    assert pages.decode(token) == last_id


@given(st.from_regex(pages.PATTERN, fullmatch=True))
def test_every_token_of_the_right_form_leads_somewhere(token: str) -> None:
    assert -(2**63) <= pages.decode(token) < 2**63
