"""Passwords that a function gives: how long they are kept, who asks for them, and what a refusal is."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from lifeguard.pool import PasswordAnswer, PasswordByHost, PasswordUnavailable, Pool, PoolUnavailable
from lifeguard.pool.passwords import Passwords
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.conftest import Events, MakePool

HOUR = 3600.0
SetPassword = Callable[[str], Awaitable[None]]


class Issuer:
    """Gives what it is told to give, and counts how often it was asked."""

    def __init__(self, *answers: PasswordAnswer | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, *_: object) -> PasswordAnswer:
        self.asked += 1
        await asyncio.sleep(0)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def in_an_hour() -> float:
    return time.time() + HOUR


@pytest.fixture
async def role(postgres: PostgresServer) -> SetPassword:
    """`await role(password)` gives the role `token_holder` that password."""

    async def set_password(password: str) -> None:
        async with postgres.connect() as admin:
            await admin.execute(f"ALTER ROLE token_holder PASSWORD '{password}'")

    async with postgres.connect() as admin:
        await admin.execute("DROP ROLE IF EXISTS token_holder")
        await admin.execute("CREATE ROLE token_holder LOGIN PASSWORD 'first'")
    return set_password


def as_holder(postgres: PostgresServer) -> str:
    return f"postgresql://token_holder@127.0.0.1:{postgres.port}/postgres"


class TestAreKept:
    @pytest.mark.parametrize("expiry", [in_an_hour, lambda: datetime.now(UTC) + timedelta(hours=1)])
    async def test_until_they_expire_whoever_connects(
        self, make_pool: MakePool, postgres: PostgresServer, expiry: Callable[[], float | datetime]
    ) -> None:
        issuer = Issuer((postgres.password, expiry()))
        pool = await make_pool(password=issuer, min_size=3, max_size=3)
        await pool.expire_connections()
        await eventually(lambda: pool.stats().opened >= 6 and pool.get_idle_size() == 3)
        assert issuer.asked == 1

    async def test_for_no_connect_but_their_own_if_they_say_nothing(
        self, make_pool: MakePool, postgres: PostgresServer
    ) -> None:
        issuer = Issuer(postgres.password)
        pool = await make_pool(password=issuer, max_size=1)
        await pool.expire_connections()
        await eventually(lambda: pool.stats().opened == 2)
        assert issuer.asked == 2

    async def test_for_the_next_one_and_are_asked_for_before_they_expire(
        self, postgres: PostgresServer
    ) -> None:
        """Nobody connects: the pool asks by itself."""
        issuer = Issuer(*((postgres.password, time.time() + 0.05 * number) for number in range(1, 4)))
        issuer.answers.append((postgres.password, in_an_hour()))
        async with Pool(postgres.dsn(), password=issuer, min_size=1, max_size=1, idle_timeout=0.1) as pool:
            await pool.wait_ready(20)
            opened = pool.stats().opened
            await eventually(lambda: issuer.asked >= 4)
            assert pool.stats().opened == opened

    async def test_while_the_next_one_cannot_be_had(
        self, make_pool: MakePool, postgres: PostgresServer, events: Events
    ) -> None:
        issuer = Issuer((postgres.password, in_an_hour()), RuntimeError("the vault is sealed"))
        pool = await make_pool(password=issuer, max_size=1, idle_timeout=0.1)
        (passwords,) = pool._lending.connector._all_passwords()
        passwords._renew_at = time.monotonic()  # three quarters of an hour later
        await eventually(lambda: events.named("password_not_renewed"))
        (event,) = events.named("password_not_renewed")
        assert "the vault is sealed" in str(event.details["error"])
        assert event.level == "warning"
        await pool.expire_connections()
        await eventually(lambda: pool.stats().opened == 2)
        assert await pool.fetchval("SELECT 1") == 1
        assert not pool.stats().open_failures

    async def test_and_asked_for_once_however_many_wait(self) -> None:
        gate = asyncio.Event()
        asked = []

        async def ask() -> PasswordAnswer:
            asked.append(1)
            await gate.wait()
            return "secret", in_an_hour()

        passwords = Passwords(ask)
        waiting = [asyncio.ensure_future(passwords.get(60)) for _ in range(20)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        gate.set()
        assert await asyncio.gather(*waiting[1:]) == ["secret"] * 19
        assert len(asked) == 1


class TestThatCannotBeHad:
    async def test_are_asked_for_again_once_a_pause_is_over_that_doubles(self) -> None:
        issuer = Issuer(RuntimeError("the vault is sealed"))
        passwords = Passwords(issuer)

        async def fail() -> None:
            with pytest.raises(PasswordUnavailable, match="the vault is sealed"):
                await passwords.get(60)

        most = 0.25
        for asked in range(1, 9):
            before = time.monotonic()
            await fail()
            assert issuer.asked == asked
            assert before + most / 2 <= passwords._asked_again_at <= time.monotonic() + most
            passwords._asked_again_at = before + HOUR  # however slow this machine is
            await fail()
            assert issuer.asked == asked
            passwords._asked_again_at = before
            most = min(most * 2, 8)
        issuer.answers = ["secret", RuntimeError("the vault is sealed")]
        assert await passwords.get(60) == "secret"
        await fail()
        assert passwords._asked_again_at <= time.monotonic() + 0.25

    async def test_by_a_function_that_is_not_awaited_are_asked_for_each_time(self) -> None:
        """A file is read at once, and may be there again."""
        there: list[str] = []
        passwords = Passwords(lambda: there[0])
        with pytest.raises(PasswordUnavailable, match="IndexError"):
            await passwords.get(60)
        there.append("secret")
        assert await passwords.get(60) == "secret"


class TestThatAreRefused:
    async def test_are_replaced_by_a_new_one_and_no_attempt_has_failed(
        self, make_pool: MakePool, postgres: PostgresServer, role: SetPassword
    ) -> None:
        issuer = Issuer(("first", in_an_hour()), ("second", in_an_hour()))
        pool = await make_pool(as_holder(postgres), password=issuer, max_size=1)
        await role("second")
        await pool.expire_connections()
        await eventually(lambda: pool.stats().opened == 2)
        assert (issuer.asked, pool.stats().open_failures) == (2, 0)

    async def test_are_a_fault_if_the_new_one_is_the_same(
        self, make_pool: MakePool, postgres: PostgresServer, role: SetPassword
    ) -> None:
        issuer = Issuer(("wrong", in_an_hour()))
        pool = await make_pool(as_holder(postgres), password=issuer, max_size=1, ready=False)
        with pytest.raises(PoolUnavailable, match="InvalidPassword"):
            await pool.acquire()
        assert pool.stats().fault == "authentication"

    async def test_are_a_fault_with_both_reasons_if_there_is_no_new_one(
        self, make_pool: MakePool, postgres: PostgresServer, role: SetPassword
    ) -> None:
        issuer = Issuer(("wrong", in_an_hour()), RuntimeError("no credentials"))
        pool = await make_pool(as_holder(postgres), password=issuer, max_size=1, ready=False)
        with pytest.raises(PoolUnavailable, match=r"InvalidPassword.*no credentials") as caught:
            await pool.acquire()
        assert "wrong" not in str(caught.value)
        assert pool.stats().fault == "password"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (("secret", datetime(2030, 1, 1)), "time zone"),  # noqa: DTZ001 - that is what is wrong with it
        (("secret", "tomorrow"), "got str"),
        (("secret", float("nan")), "seconds since 1970"),
        (("secret",), "must be .password, expiry."),
        (b"secret", "must be text, got bytes"),
        (RuntimeError("no such role"), "RuntimeError: no such role"),
        (TimeoutError("the vault does not answer"), "the vault does not answer"),
    ],
)
async def test_what_is_no_password_is_told_without_it(answer: object, said: str) -> None:
    with pytest.raises(ConnectionError, match=said) as caught:
        await Passwords(Issuer(answer)).get(60)  # type: ignore[arg-type]  # which is wrong
    assert "secret" not in str(caught.value)


async def test_none_leaves_what_the_url_says(make_pool: MakePool) -> None:
    pool = await make_pool(password=Issuer(None))
    assert await pool.fetchval("SELECT 1") == 1


async def test_each_host_is_given_its_own(make_pool: MakePool, postgres: PostgresServer) -> None:
    asked: list[str] = []

    async def ask(host: str, port: int) -> PasswordAnswer:
        assert port == postgres.port
        asked.append(host)
        if host == "127.0.0.1":
            raise RuntimeError("not for this one")
        return postgres.password, in_an_hour()

    hosts = f"127.0.0.1:{postgres.port},localhost:{postgres.port}"
    pool = await make_pool(f"postgresql://postgres@{hosts}/postgres", password=PasswordByHost(ask))
    assert await pool.fetchval("SELECT 1") == 1
    assert set(asked) == {"127.0.0.1", "localhost"}


async def test_an_answer_that_expired_on_the_way_is_used_once() -> None:
    issuer = Issuer(("secret", time.time() - 1))
    passwords = Passwords(issuer)
    assert [await passwords.get(60), await passwords.get(60)] == ["secret", "secret"]
    assert issuer.asked == 2
