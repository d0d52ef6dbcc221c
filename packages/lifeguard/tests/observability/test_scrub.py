"""Secrets are taken out of texts, in every form that they take, and at a price that nobody can raise."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lifeguard.observability import Scrubber, scrub
from lifeguard.settings.environment import read_secret

from packages.lifeguard.tests.observability.steps import Steps

SECRET = "canary-hush-hush"
AWKWARD = 'canary:"p@ss/wörd +%25\\'
LONGEST_TEXT = 500
MOST_STEPS_A_CHARACTER = 16


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
        (f"postgresql://app:it's{SECRET}@db", "postgresql://app:***@db"),
        (f"https://x.org/?of=postgresql://app:{SECRET}@db", "https://x.org/?of=postgresql://app:***@db"),
        (f"host=db password={SECRET} user=app", "host=db password=*** user=app"),
        (f"postgresql://db/x?sslpassword={SECRET}&sslmode=require", "postgresql://db/x?sslpassword=***&sslmode=require"),
        (f"PGPASSWORD={SECRET}", "PGPASSWORD=***"),
        (f"Password={SECRET}", "Password=***"),
        (f"password='{SECRET} it\\'s' user=app", "password='***' user=app"),
        (json.dumps({"password": SECRET, "user": "app"}), '{"password": "***", "user": "app"}'),
        (str({"password": SECRET, "user": "app"}), "{'password': '***', 'user': 'app'}"),
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
        "wrong password: InvalidPasswordError",
    ],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert Scrubber([SECRET])(text) == text


def test_of_two_secrets_the_longer_is_hidden_whole() -> None:
    assert Scrubber(["hush", "hush-hush"])("hush-hush") == "***"


def test_a_secret_of_two_letters_does_not_blank_out_every_line() -> None:
    assert Scrubber(["ab"])("abundant") == "abundant"


@pytest.mark.parametrize(
    "form",
    [
        quote(AWKWARD),
        quote(AWKWARD, safe=""),
        quote(AWKWARD, safe="@"),
        quote(AWKWARD, safe="").lower(),
        quote(quote(AWKWARD, safe=""), safe=""),
        quote_plus(AWKWARD),
        AWKWARD.replace("@", "%40"),
        json.dumps(AWKWARD)[1:-1],
        json.dumps(json.dumps(AWKWARD))[3:-3],
        json.dumps(repr(AWKWARD))[2:-2],
        json.dumps(quote(AWKWARD, safe="ö@")),
        json.dumps(AWKWARD.replace("@", "%40"))[1:-1],
    ],
)
def test_a_secret_is_found_however_it_is_escaped(form: str) -> None:
    scrubbed = Scrubber([AWKWARD])(f"before {form} after")
    assert scrubbed.replace('"', "").replace("\\", "") == "before *** after"


def test_a_password_that_is_read_later_is_a_secret_from_then_on(tmp_path: Path) -> None:
    scrub = Scrubber()
    file = tmp_path / "password"
    file.write_text("rotated-hush\n")
    read_secret(file)
    assert scrub("it is rotated-hush now") == "it is *** now"


AMBIGUOUS = "ab25%\\+ /ü\n\"'=😀"
"""Characters that escapes are made of, and such that have several."""
ESCAPES: tuple[Callable[[str], str], ...] = (
    str,
    quote_plus,
    lambda character: "".join(f"%{byte:02X}" for byte in character.encode()),
    lambda character: "".join(f"%25{byte:02x}" for byte in character.encode()),
    lambda character: json.dumps(character)[1:-1],
    lambda character: json.dumps(json.dumps(character)[1:-1])[1:-1],
    lambda character: f"\\{character}",
)


@given(
    st.text(AMBIGUOUS, min_size=3, max_size=30),
    st.lists(st.sampled_from(ESCAPES), min_size=1, max_size=30),
    st.text(AMBIGUOUS, max_size=20),
    st.integers(0, 3),
)
def test_what_is_searched_for_in_steps_is_what_one_pattern_of_it_all_would_find(
    secret: str, escapes: list[Callable[[str], str]], around: str, cut: int
) -> None:
    escaped = "".join(escapes[at % len(escapes)](one) for at, one in enumerate(secret))
    text = f"{around}{escaped}{around}{escaped[cut:]}"
    text = f"{text}{'x' * (scrub._WINDOW - len(text) - cut)}{text}"
    assert Scrubber([secret])(text) == by_one_pattern(secret, text)


def by_one_pattern(secret: str, text: str) -> str:
    """As a `Scrubber` without its short cut."""
    for form in sorted(scrub._forms(secret), key=len, reverse=True):
        text = text.replace(form, "***")
    hints = [hint for hint in scrub._plain_forms(secret) if len(hint) >= scrub._SHORTEST_SEARCHED]
    if any(hint in scrub._plain(text) for hint in hints):
        whole = re.compile("".join(map(scrub._any_form, secret.replace("%25", "%"))))
        text = whole.sub("***", text)
    return text


def test_a_token_of_a_kilobyte_costs_nothing_until_it_is_found() -> None:
    """Then it costs a pattern for each of its different characters, and one for its beginning."""
    token = "X-Amz-Signature=" + "0123456789abcdef" * 64
    scrub._pattern_of.cache_clear()
    shown = Scrubber([token])
    assert shown("nothing %41 to hide") == "nothing %41 to hide"
    assert scrub._pattern_of.cache_info().currsize == 0
    assert shown(f"it is {quote(token)}") == "it is ***"
    assert scrub._pattern_of.cache_info().currsize <= len(set(token)) + 1


class TestCutting:
    @given(st.integers(0, 200), st.integers(1, 100))
    def test_leaves_no_half_of_a_secret(self, before: int, longest: int) -> None:
        text = "x" * before + SECRET * 3 + "y" * 3000
        shown = Scrubber([SECRET])
        for cut in (shown.head(text, longest), shown.tail(text[::-1].replace(SECRET[::-1], SECRET), longest)):
            assert not set("canrhus-") & set(cut)
            assert len(cut) <= longest + 3

    def test_looks_at_no_more_than_is_shown(self) -> None:
        shown = Scrubber([SECRET])
        assert shown.head("a" * 10**6, 100) == "a" * 100 + "..."
        assert shown.tail("a" * 10**6, 100) == "..." + "a" * 100
        assert shown.head("short", 100) == shown.tail("short", 100) == "short"


PIECES = (
    *("/@", "://", "://a:", "a:b@", "@", ":", "/", "'", '"', "\\", " ", "a", "%41", "%", "\\u0041"),
    *("passw", "password=", "password='", '"password": "', "'password': '", "PASSWD=", "or", "\\\\'", "\\'"),
)


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=6), st.text("/@:'\"\\ ap=%", max_size=20))
@example(["/@", "://"], "")
@example(["://a:"], "")
@example(["passw"], "")
def test_each_character_is_looked_at_a_fixed_number_of_times(pieces: list[str], rest: str) -> None:
    """Counted, and not timed: twice the text would be four times the steps if a pattern were quadratic."""
    unit = "".join(pieces)
    text = (unit * (LONGEST_TEXT // len(unit)) + rest)[: LONGEST_TEXT + len(rest)]
    for pattern in (scrub._LOGIN, scrub._PARAMETER):
        assert Steps(pattern, text).count <= MOST_STEPS_A_CHARACTER * (len(text) + 1)


def test_what_counts_the_steps_sees_a_pattern_that_is_quadratic() -> None:
    once = re.compile(r"(://[^\s:/@'\"]*):[^\s'\"]*@")
    assert Steps(once, "://:" * (LONGEST_TEXT // 4)).count > MOST_STEPS_A_CHARACTER * LONGEST_TEXT
