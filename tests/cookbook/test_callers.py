"""Recipes about who is asking: tokens, rate limits, tenants."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet
from starlette.requests import Request

from docs.cookbook.bearer_tokens import Checker
from docs.cookbook.rate_limit import RateLimit, TooManyRequests, caller_of, searches
from tests.cookbook.conftest import Shop

ISSUER, AUDIENCE = "https://login.example", "orders"
FIRST, SECOND, FOREIGN = (
    ECKey.generate_key("P-256", {"kid": name, "use": "sig"}) for name in ("1", "2", "1")
)


@pytest.fixture
def signed_in(shop: Shop) -> Iterator[Shop]:
    """The provider has one key, and the service has not looked lately."""
    shop.outside.keys[:] = [FIRST]
    forget_when_it_looked(shop)
    yield shop
    searches._whole_at.clear()


def checker(shop: Shop) -> Checker:
    checker: Checker = shop.service.state["checker"]  # type: ignore[typeddict-item]  # the recipe's own
    return checker


def forget_when_it_looked(shop: Shop) -> None:
    checker(shop)._keys._looked_at = None


def token(key: ECKey = FIRST, *, kid: str | None = "", **changed: object) -> str:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": int(time.time()) + 300, **changed}
    header = {"alg": "ES256", "kid": key.kid if kid == "" else kid}
    return jwt.encode(
        {name: value for name, value in header.items() if value is not None},
        {name: value for name, value in claims.items() if value is not None},
        key,
    )


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def with_algorithm(name: str, key: bytes) -> str:
    """A token in which somebody else than the issuer has chosen the algorithm."""
    signed = f"{encoded(json.dumps({'alg': name, 'kid': '1'}).encode())}.{token().split('.')[1]}"
    signature = hmac.digest(key, signed.encode(), hashlib.sha256) if key else b""
    return f"{signed}.{encoded(signature)}"


async def ask(shop: Shop, given: str | None, method: str = "GET") -> httpx.Response:
    headers = {} if given is None else {"Authorization": f"Bearer {given}"}
    return await shop.client.request(method, "/me/orders", headers=headers)


async def test_a_user_sees_what_is_its_own(signed_in: Shop) -> None:
    await signed_in.database.execute(
        "INSERT INTO orders (customer, item) VALUES ('ada', 'tea'), ('eve', 'wine')"
    )
    answer = await ask(signed_in, token())
    assert answer.json() == [{"id": 1, "item": "tea"}]


SENSELESS = b'{"alg": "ES256", "kid": "1", "crit": 5}'

REFUSED: dict[str, Callable[[], str | None]] = {
    "none at all": lambda: None,
    "no token": lambda: "secret",
    "expired": lambda: token(exp=int(time.time()) - 60),
    "without an end": lambda: token(exp=None),
    "not valid yet": lambda: token(nbf=int(time.time()) + 600),
    "for another audience": lambda: token(aud="mail"),
    "for other audiences": lambda: token(aud=["mail", "files"]),
    "without an audience": lambda: token(aud=None),
    "of another issuer": lambda: token(iss="https://evil.example"),
    "without an issuer": lambda: token(iss=None),
    "without a subject": lambda: token(sub=None),
    "signed by somebody else": lambda: token(FOREIGN),
    "of an unknown key": lambda: token(SECOND),
    "without a key's name": lambda: token(kid=None),
    "changed": lambda: f"{token()[:-4]}AAAA",
    "with a senseless header": lambda: f"{encoded(SENSELESS)}.e30.AAAA",
    "deep": lambda: f"{encoded(b'[' * 3000)}.e30.AAAA",
    "alg none": lambda: with_algorithm("none", b""),
    "signed with the public key": lambda: with_algorithm("HS256", FIRST.as_pem(private=False)),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_token_is_refused(signed_in: Shop, name: str) -> None:
    assert (await ask(signed_in, token())).status_code == 200
    answer = await ask(signed_in, REFUSED[name]())
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["type"] == "/problems/unauthorized"


async def test_one_of_several_audiences_is_enough(signed_in: Shop) -> None:
    assert (await ask(signed_in, token(aud=["mail", AUDIENCE]))).status_code == 200


async def test_a_scope_is_needed_to_write(signed_in: Shop) -> None:
    assert (await ask(signed_in, token(scope="orders:read"), "DELETE")).status_code == 403
    assert (await ask(signed_in, token(scope="orders:read orders:write"), "DELETE")).status_code == 204


async def test_rotated_keys_are_fetched_once_and_by_the_first_who_needs_them(signed_in: Shop) -> None:
    assert (await ask(signed_in, token())).status_code == 200
    signed_in.outside.keys[:] = [SECOND, FIRST]
    forget_when_it_looked(signed_in)
    before = signed_in.outside.looks
    answers = await asyncio.gather(
        *(ask(signed_in, token(SECOND)) for _ in range(5)), ask(signed_in, token())
    )
    assert {answer.status_code for answer in answers} == {200}
    assert signed_in.outside.looks == before + 1
    signed_in.outside.keys[:] = [SECOND]  # the old one is revoked
    forget_when_it_looked(signed_in)
    await ask(signed_in, token(kid="3"))
    assert (await ask(signed_in, token())).status_code == 401


async def test_made_up_keys_do_not_make_it_ask_the_provider(signed_in: Shop) -> None:
    await ask(signed_in, token(kid="made up"))
    before = signed_in.outside.looks
    for number in range(10):
        assert (await ask(signed_in, token(kid=f"made up {number}"))).status_code == 401
    assert signed_in.outside.looks == before


async def test_without_any_key_it_is_unavailable(signed_in: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker(signed_in)._keys, "_known", KeySet([]))
    monkeypatch.setattr(checker(signed_in)._keys, "_url", f"{signed_in.outside.url}/nothing")
    answer = await ask(signed_in, token())
    assert answer.status_code == 503
    assert answer.json()["type"] == "/problems/sign-in-unavailable"


async def test_a_caller_that_asks_too_often_is_told_when_to_come_back(signed_in: Shop) -> None:
    async def search(client: str) -> httpx.Response:
        headers = {"X-Forwarded-For": client}
        return await signed_in.client.get("/search", params={"text": "tea"}, headers=headers)

    assert [(await search("10.0.0.1")).status_code for _ in range(5)] == [200] * 5
    refused = await search("10.0.0.1")
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert (await search("10.0.0.2")).status_code == 200


@given(st.lists(st.floats(0, 3), max_size=60))
def test_nobody_gets_more_than_the_rate_and_the_burst(gaps: list[float]) -> None:
    now, rate, burst = 0.0, 2.0, 3
    limit = RateLimit(rate, burst, now=lambda: now)
    served: list[float] = []
    for gap in gaps:
        now += gap
        try:
            limit.count("ada")
        except TooManyRequests as refused:
            now += int((refused.headers or {})["Retry-After"])
            limit.count("ada")
        served.append(now)
    for first, since in enumerate(served):
        for last, until in enumerate(served[first:], 1):
            assert last <= burst + rate * (until - since) + 0.01


def test_callers_are_remembered_up_to_a_number() -> None:
    limit = RateLimit(1, 1, most_callers=10, now=lambda: 0.0)
    for number in range(1000):
        limit.count(str(number))
    assert limit.callers == 10
    with pytest.raises(TooManyRequests):
        limit.count("999")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
    ],
)
def test_an_ipv6_network_is_one_caller(one: str, other: str, same: bool) -> None:
    callers = {
        caller_of(Request({"type": "http", "client": (host, 1), "headers": []})) for host in (one, other)
    }
    assert (len(callers) == 1) is same


@pytest.mark.parametrize("path", ["/notes", "/documents"])
async def test_a_tenant_sees_and_writes_only_its_own(shop: Shop, path: str) -> None:
    for name in ("ada", "grace"):
        made = await shop.client.post(path, json={"text": f"of {name}"}, headers={"X-Tenant": name})
        assert made.status_code == 201
    asked = [(await shop.client.get(path, headers={"X-Tenant": name})).json() for name in ("ada", "grace")]
    assert asked == [[{"text": "of ada"}], [{"text": "of grace"}]]


@pytest.mark.parametrize("path", ["/notes", "/documents"])
@pytest.mark.parametrize("text", ["right", ""])
async def test_nothing_of_a_tenant_is_left_for_the_next_borrower(shop: Shop, path: str, text: str) -> None:
    """Neither after a commit nor after an error; on any of the connections, all of which are looked at."""
    await asyncio.gather(
        *(shop.client.post(path, json={"text": text}, headers={"X-Tenant": "ada"}) for _ in range(20))
    )
    async with shop.database.connection() as first, shop.database.connection() as second:
        for connection in (first, second):
            assert await connection.fetchval("SHOW search_path") == '"$user", public'
            assert not await connection.fetchval("SELECT current_setting('app.tenant', true)")
            assert await connection.fetchval("SELECT count(*) FROM documents") == 0
            assert await connection.fetchval("SELECT to_regclass('notes')") is None


async def test_a_row_of_another_tenant_cannot_be_written(shop: Shop) -> None:
    async with shop.database.connection() as connection:
        with pytest.raises(Exception, match="row-level security"):
            await connection.execute("INSERT INTO documents (tenant, text) VALUES ('ada', 'forged')")


async def test_there_are_no_tenants_but_those_that_are_known(shop: Shop) -> None:
    for name in ("nobody", 'ada", public', ""):
        answer = await shop.client.get("/notes", headers={"X-Tenant": name})
        assert answer.status_code in {404, 422}
