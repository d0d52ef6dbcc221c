"""Connection URLs: judged without repeating a secret, shown without one."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifeguard.settings import dsn

passwords = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=4)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://localhost/ledger",
        "postgres://app:secret@db:5432/ledger",
        "postgresql://app@[::1]:5434,a:5432,b:5433/ledger?target_session_attrs=read-write",
        "postgresql:///ledger?host=/var/run/postgresql&port=5433",
        "postgresql://%2Fvar%2Frun%2Fpostgresql/ledger",
        "postgresql://app:p%40ss%2Fw%23rd@db/ledger?sslmode=verify-full",
    ],
)
def test_accepts_what_the_driver_accepts(url: str) -> None:
    assert dsn.fault(url) is None


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("mysql://db/ledger", "postgresql://"),
        ("db.internal:5432", "postgresql://"),
        ("postgresql://db:0/ledger", "ports"),
        ("postgresql://db:99999/ledger", "ports"),
        ("postgresql://a:5432,b:http/ledger", "ports"),
        ("postgresql://db/ledger?sslmode=on", "sslmode one of"),
        ("postgresql://db/ledger?target_session_attrs=master", "target_session_attrs one of"),
        ("postgresql://db/ledger?sslmode", "?name=value"),
    ],
)
def test_says_what_must_change(url: str, complaint: str) -> None:
    assert complaint in (dsn.fault(url) or "")


@pytest.mark.parametrize("special", "@#/?[")
def test_a_password_with_a_bare_special_character_is_a_fault_and_not_repeated(special: str) -> None:
    url = f"postgresql://app:hush{special}hush@db/ledger"
    assert "%" in (dsn.fault(url) or "")
    assert "hush" not in (dsn.fault(url) or "")
    assert "hush" not in dsn.without_secrets(url)


@given(passwords)
def test_no_password_is_ever_shown(password: str) -> None:
    written = quote(password, safe="")
    for url in (
        f"postgresql://app:{written}@db:5432/ledger?sslmode=require",
        f"postgresql://app@db/ledger?password={written}&sslmode=require",
    ):
        shown = dsn.without_secrets(url)
        assert shown in {
            "postgresql://app@db:5432/ledger?sslmode=require",
            "postgresql://app@db/ledger?sslmode=require",
        }
        assert {written, password} <= dsn.secrets(url)


def test_of_what_is_no_url_all_of_it_may_be_secret() -> None:
    assert dsn.secrets("app:hush@db") == {"app:hush@db"}


@pytest.mark.parametrize(
    ("url", "may"),
    [
        ("postgresql://db.internal/ledger", True),
        ("postgresql://10.0.0.5/ledger?sslmode=prefer", True),
        ("postgresql:///ledger?host=db.internal", True),
        ("postgresql://127.0.0.1,db.internal/ledger", True),
        ("postgresql://db.internal/ledger?sslmode=disable", False),
        ("postgresql://db.internal/ledger?sslmode=verify-full", False),
        ("postgresql://localhost/ledger", False),
        ("postgresql://[::1]:5432,127.0.0.1:5432/ledger", False),
        ("postgresql:///ledger?host=/run/postgresql", False),
    ],
)
def test_knows_when_tls_is_left_to_chance(url: str, may: bool) -> None:
    assert dsn.may_fall_back_to_plaintext(url) is may


@pytest.mark.parametrize(
    ("text", "each"),
    [
        ("postgresql://app@a/x", ["postgresql://app@a/x"]),
        (" postgresql://a/x,\n postgres://b/x ", ["postgresql://a/x", "postgres://b/x"]),
        (
            "postgresql://a/x,postgresql://b/x?options=-c a=b",
            ["postgresql://a/x", "postgresql://b/x?options=-c a=b"],
        ),
        (
            "postgresql://u:p%40@[::1]:2,a:1,b/x?k=v",
            [f"postgresql://u:p%40@{host}/x?k=v" for host in ("[::1]:2", "a:1", "b")],
        ),
        (
            "postgresql:///x?host=a,/tmp&port=1,2",
            ["postgresql:///x?host=a&port=1", "postgresql:///x?host=/tmp&port=2"],
        ),
        (
            "postgresql:///x?host=a,b&port=7",
            ["postgresql:///x?host=a&port=7", "postgresql:///x?host=b&port=7"],
        ),
        ("postgresql:///x", ["postgresql:///x"]),
    ],
)
def test_several_urls_and_each_host_of_one(text: str, each: list[str]) -> None:
    assert [one for url in dsn.several(text) for one in dsn.each_host(url)] == each


@given(st.lists(passwords, min_size=1, max_size=3), st.sampled_from([" ", ",", ", ", "\n"]))
def test_urls_are_told_apart_whatever_their_passwords_are(passwords: list[str], between: str) -> None:
    urls = [
        f"postgresql://app:{quote(password, safe='')}@db{number}/x"
        for number, password in enumerate(passwords)
    ]
    assert dsn.several(between.join(urls)) == urls


ONE, TWO = "postgresql://app:secret@127.0.0.1:5602/ledger", "postgresql://app:secret@127.0.0.1:5603/ledger"


@pytest.mark.parametrize(
    "text",
    [
        f"{ONE};{TWO}",
        f"{ONE} postgres//app:secret@b/ledger",
        f"{ONE.removesuffix('/ledger')}, 127.0.0.1:5603/ledger",
        f"{ONE}, 127.0.0.1:5603",
    ],
)
def test_what_is_between_several_urls_is_no_fault_of_a_password(text: str) -> None:
    said = "the 2nd must start with postgresql://; between URLs is a space or a comma"
    assert dsn.fault_between(dsn.several(text)) == said
    assert dsn.fault_between(dsn.several(f"{ONE}, {ONE} {TWO}?options=-c%20a=b")) is None


@pytest.mark.parametrize("name", ["ledger,127.0.0.1:5603", "led ger"])
def test_the_name_of_a_database_has_no_comma_and_no_space(name: str) -> None:
    assert "in the database's name" in str(dsn.fault(f"postgresql://app@a/{name}"))
    assert dsn.fault("postgresql://app@a/led%2Cger%20") is None
