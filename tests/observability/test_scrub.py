"""Secrets are taken out of texts, in every form that they take."""

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.observability import Scrubber

SECRET = "canary-hush-hush"


@given(
    st.text(min_size=3).filter(lambda text: "*" not in text),
    st.text(),
    st.text(),
)
def test_no_known_secret_survives(secret: str, before: str, after: str) -> None:
    scrub = Scrubber([secret])
    assert secret not in scrub(f"{before} {secret} {after}").replace("***", "")
    assert json.dumps(secret)[1:-1] not in scrub(json.dumps([before, secret, after])).replace("***", "")


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        (f"postgresql://app:{SECRET}@db/x", "postgresql://app:***@db/x"),
        (f"could not reach http://a:{SECRET}@b.", "could not reach http://a:***@b."),
        (f"postgresql://app:{quote('a/b@' + SECRET)}@db", "postgresql://app:***@db"),
        (f"host=db password={SECRET} user=app", "host=db password=*** user=app"),
        (f"postgresql://db/x?sslpassword={SECRET}&sslmode=require", "postgresql://db/x?sslpassword=***&sslmode=require"),
        (f"PGPASSWORD={SECRET}", "PGPASSWORD=***"),
    ],
)  # fmt: skip
def test_a_password_that_nobody_told_of_is_found_by_its_place(text: str, scrubbed: str) -> None:
    assert Scrubber()(text) == scrubbed


@pytest.mark.parametrize(
    "text",
    [
        "nothing to hide",
        "see https://example.org/a:b",
        "mail me@example.org",
        "password authentication failed",
    ],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert Scrubber([SECRET])(text) == text


def test_of_two_secrets_the_longer_is_hidden_whole() -> None:
    assert Scrubber(["hush", "hush-hush"])("hush-hush") == "***"


def test_a_secret_of_two_letters_does_not_blank_out_every_line() -> None:
    assert Scrubber(["ab"])("abundant") == "abundant"
