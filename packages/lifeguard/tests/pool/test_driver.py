"""Fails when something that lifeguard/pool/driver needs of asyncpg's private parts has moved."""

import ast
import asyncio
import inspect
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from asyncpg import connect_utils
from asyncpg.connection import ServerCapabilities
from asyncpg.transaction import Transaction, TransactionState
from lifeguard.pool import Isolation, driver
from lifeguard.pool.addresses import RedirectedLoop
from lifeguard.pool.driver.copying import Copy
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

_connection: Any = asyncpg.connection  # the stubs leave private names out
# Whose each private name is; "protocol" is what `_protocol` holds.
NAMES: dict[str, object] = {
    "_aborted": asyncpg.Connection,
    "_addr": asyncpg.Connection,
    "_cancellations": asyncpg.Connection,
    "_check_conn_validity": Transaction,
    "_cleanup_stmts": asyncpg.Connection,
    "_ConnectionProxy": asyncpg.connection,
    "_con_release_ctr": Transaction,
    "_connection": Transaction,
    "_deferrable": Transaction,
    "_drop_local_statement_cache": asyncpg.Connection,
    "_drop_local_type_cache": asyncpg.Connection,
    "_entries": _connection._StatementCache,
    "_get_parameters": "statement",
    "_get_statement": asyncpg.Connection,
    "_get_timeout": "protocol",
    "_is_cancelling": "protocol",
    "_introspect_types": asyncpg.Connection,
    "_isolation": Transaction,
    "_listeners": asyncpg.Connection,
    "_log_listeners": asyncpg.Connection,
    "_loop": asyncpg.Connection,
    "_parse_connect_dsn_and_args": connect_utils,
    "_params": asyncpg.Connection,
    "_pool_release_ctr": asyncpg.Connection,
    "_protocol": asyncpg.Connection,
    "_query_loggers": asyncpg.Connection,
    "_readonly": Transaction,
    "_replace": ServerCapabilities,
    "_server_caps": asyncpg.Connection,
    "_start": driver.Transaction,
    "_statement": _connection._StatementCacheEntry,
    "_state": Transaction,
    "_stmt_cache": asyncpg.Connection,
    "_stmt_cache_enabled": asyncpg.Connection,
    "_top_xact": asyncpg.Connection,
    "_transport": asyncpg.Connection,
    "_wait_for_cancellation": "protocol",
}


@pytest.fixture
async def connection(postgres: PostgresServer) -> AsyncIterator[driver.Session]:
    connection = await asyncpg.connect(postgres.dsn())
    yield connection
    connection.terminate()


async def begin(
    connection: driver.Session,
    *,
    isolation: Isolation | None = None,
    read_only: bool = False,
    deferrable: bool = False,
    prelude: str = "",
) -> Transaction:
    transaction = driver.Transaction(connection, None, isolation, read_only, deferrable)
    await driver.begin(connection, transaction, prelude)
    return transaction


def private_names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    attributes = (node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return {name for name in attributes if name.startswith("_") and not name.startswith("__")}


def test_every_private_name_that_the_driver_touches_is_watched_here() -> None:
    files = Path(driver.__file__).parent.glob("*.py")
    assert set().union(*map(private_names_in, files)) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
async def test_the_name_is_where_it_was(connection: driver.Session, name: str) -> None:
    owner = NAMES[name]
    if owner == "statement":
        await connection.fetch("SELECT 1")
        owner = connection._stmt_cache.get(("SELECT 1", connection._protocol.get_record_class(), False))
    assert hasattr(connection._protocol if owner == "protocol" else owner, name)


def test_this_is_the_asyncpg_it_was_read_for() -> None:
    assert asyncpg.__version__.startswith("0.32.")


async def rows_at_hand(connection: driver.Session, query: str, *args: object, limit: int = 0) -> Any:
    running = driver.run_at_hand(connection, query, args, limit, None)
    return None if running is None else await running


class TestShortWay:
    """`run_at_hand()` does what `Connection.fetch()` does."""

    async def test_there_is_none_before_the_first_use(self, connection: driver.Session) -> None:
        assert await rows_at_hand(connection, "SELECT 1") is None

    async def test_it_gives_the_same_rows(self, connection: driver.Session) -> None:
        query = "SELECT n, n::text FROM generate_series(1, $1) AS n"
        expected = await connection.fetch(query, 5)
        assert await rows_at_hand(connection, query, 5) == expected
        assert await rows_at_hand(connection, query, 5, limit=1) == expected[:1]

    async def test_its_timeout_holds(self, connection: driver.Session) -> None:
        query = "SELECT pg_sleep($1)"
        await connection.fetch(query, 0)
        running = driver.run_at_hand(connection, query, (60,), 0, 0.05)
        assert running is not None
        with pytest.raises(TimeoutError):
            await running

    async def test_a_query_logger_closes_it(self, connection: driver.Session) -> None:
        await connection.fetch("SELECT 1")
        assert await rows_at_hand(connection, "SELECT 1") is not None
        with connection.query_logger(print):
            assert await rows_at_hand(connection, "SELECT 1") is None

    async def test_so_does_a_connection_class_of_the_user_s_own(self, postgres: PostgresServer) -> None:
        class Own(asyncpg.Connection):
            pass

        connection = await asyncpg.connect(postgres.dsn(), connection_class=Own)
        await connection.fetch("SELECT 1")
        assert await rows_at_hand(connection, "SELECT 1") is None
        await connection.close()

    async def test_so_does_the_connection_s_end(self, connection: driver.Session) -> None:
        await connection.fetch("SELECT 1")
        connection.terminate()
        assert await rows_at_hand(connection, "SELECT 1") is None


class TestCopy:
    async def test_the_future_that_asyncpg_waits_for_is_found_in_its_protocol(
        self, connection: driver.Session
    ) -> None:
        async def take(_: bytes) -> None: ...

        steps = Copy(connection, connection.copy_from_query("SELECT 1", output=take))
        assert await steps == "COPY 1"
        assert steps.waiter is not None
        assert steps.waiter.result()[2] == "COPY 1"


class TestSettle:
    async def test_a_session_at_rest_needs_nothing(self, connection: driver.Session) -> None:
        assert driver.settle(connection)

    async def test_what_was_made_on_it_raises_afterwards(self, connection: driver.Session) -> None:
        statement = await connection.prepare("SELECT 1")
        transaction = connection.transaction()
        driver.settle(connection)
        with pytest.raises(asyncpg.InterfaceError, match="released back to the pool"):
            await statement.fetch()
        with pytest.raises(asyncpg.InterfaceError, match="released back to the pool"):
            await transaction.start()

    @pytest.mark.parametrize("statement", ["BEGIN", "BEGIN; SELECT 1 / 0"])
    async def test_one_in_a_transaction_needs_care(self, connection: driver.Session, statement: str) -> None:
        await asyncio.gather(connection.execute(statement), return_exceptions=True)
        assert not driver.settle(connection)

    async def test_so_does_one_whose_transaction_is_asyncpg_s(self, connection: driver.Session) -> None:
        await connection.transaction().start()
        assert not driver.settle(connection)

    async def test_so_does_one_that_is_cancelling(self, connection: driver.Session) -> None:
        with pytest.raises(TimeoutError):
            await connection.execute("SELECT pg_sleep(60)", timeout=0.01)
        assert not driver.settle(connection)
        await driver.finish_cancelling(connection, 5)
        assert driver.settle(connection)

    @pytest.mark.parametrize("end", ["close", "terminate"])
    async def test_so_does_one_that_has_ended(self, connection: driver.Session, end: str) -> None:
        if end == "close":
            await connection.close()
        else:
            connection.terminate()
        assert not driver.settle(connection)
        await driver.finish_cancelling(connection, 5)  # there is nothing to wait for

    async def test_a_cancel_without_answer_cuts_the_connection(self, postgres: PostgresServer) -> None:
        async with Proxy(postgres.dsn()).serve() as proxy:
            connection = await asyncpg.connect(proxy.dsn)
            asked = proxy.asked
            query = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
            await eventually(lambda: proxy.asked > asked)
            proxy.silence()
            query.cancel()
            await asyncio.wait([query])
            with pytest.raises(TimeoutError):
                await driver.finish_cancelling(connection, 0.1)
            assert connection.is_closed()


class TestRollBack:
    async def test_it_ends_asyncpg_s_transaction(self, connection: driver.Session) -> None:
        await connection.transaction().start()
        assert await driver.roll_back(connection, 5)
        assert not connection.is_in_transaction()
        async with connection.transaction():  # asyncpg has forgotten the other one
            pass

    async def test_without_one_it_costs_nothing(self, connection: driver.Session) -> None:
        assert not await driver.roll_back(connection, 5)


class TestBegin:
    @pytest.mark.parametrize(
        ("isolation", "shown"),
        [
            (None, "read committed"),
            ("read_committed", "read committed"),
            ("read_uncommitted", "read uncommitted"),
            ("repeatable_read", "repeatable read"),
            ("serializable", "serializable"),
        ],
    )
    async def test_isolation(
        self, connection: driver.Session, isolation: Isolation | None, shown: str
    ) -> None:
        await begin(connection, isolation=isolation)
        assert await connection.fetchval("SHOW transaction_isolation") == shown

    async def test_read_only_and_deferrable(self, connection: driver.Session) -> None:
        await begin(connection, isolation="serializable", read_only=True, deferrable=True)
        assert await connection.fetchval("SHOW transaction_read_only") == "on"
        assert await connection.fetchval("SHOW transaction_deferrable") == "on"

    async def test_the_prelude_shares_its_round_trip(self, postgres: PostgresServer) -> None:
        async with Proxy(postgres.dsn()).serve() as proxy:
            connection = await asyncpg.connect(proxy.dsn)
            asked = proxy.asked
            transaction = await begin(connection, prelude="SET LOCAL statement_timeout = '7s'")
            assert proxy.asked == asked + 1
            assert await connection.fetchval("SHOW statement_timeout") == "7s"
            await transaction.commit()
            assert await connection.fetchval("SHOW statement_timeout") == "0"
            await connection.close()

    async def test_transactions_inside_it_are_savepoints(self, connection: driver.Session) -> None:
        transaction = await begin(connection)
        savepoint = connection.transaction()
        await savepoint.start()
        await connection.execute("CREATE TEMP TABLE things ()")
        await savepoint.rollback()
        assert await connection.fetchval("SELECT to_regclass('things')") is None
        assert connection.is_in_transaction()
        await transaction.rollback()
        assert not connection.is_in_transaction()

    async def test_a_failing_prelude_leaves_a_transaction_to_roll_back(
        self, connection: driver.Session
    ) -> None:
        with pytest.raises(asyncpg.DivisionByZeroError):
            await begin(connection, prelude="SELECT 1 / 0")
        assert not driver.settle(connection)
        assert await driver.roll_back(connection, 5)
        assert driver.settle(connection)

    async def test_asyncpg_takes_it_for_a_started_one(self, connection: driver.Session) -> None:
        transaction = await begin(connection)
        assert transaction._state is TransactionState.STARTED  # type: ignore[attr-defined]  # private
        with pytest.raises(asyncpg.InterfaceError, match="already started"):
            await transaction.start()

    async def test_a_second_one_is_refused(self, connection: driver.Session) -> None:
        await begin(connection)
        with pytest.raises(asyncpg.InterfaceError, match="in a transaction already"):
            await begin(connection)

    async def test_it_can_be_begun_again_on_another_connection(
        self, connection: driver.Session, postgres: PostgresServer
    ) -> None:
        dead = await asyncpg.connect(postgres.dsn())
        transaction = await begin(dead, isolation="serializable")
        dead.terminate()
        await driver.begin(connection, transaction)
        assert await connection.fetchval("SHOW transaction_isolation") == "serializable"
        await transaction.rollback()
        assert not connection.is_in_transaction()


class TestCommit:
    async def test_it_commits(self, connection: driver.Session) -> None:
        transaction = await begin(connection)
        assert await driver.commit(connection, transaction, 5) == "COMMIT"
        assert driver.settle(connection)
        with pytest.raises(asyncpg.InterfaceError, match="committed"):
            await driver.commit(connection, transaction, 5)

    async def test_it_says_when_the_server_rolled_back_instead(self, connection: driver.Session) -> None:
        transaction = await begin(connection)
        with pytest.raises(asyncpg.DivisionByZeroError):
            await connection.execute("SELECT 1 / 0")
        assert await driver.commit(connection, transaction, 5) == "ROLLBACK"

    async def test_a_failing_commit_is_the_transaction_s_end(self, connection: driver.Session) -> None:
        transaction = await begin(connection)
        await connection.execute("CREATE TEMP TABLE things (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        await connection.execute("INSERT INTO things VALUES (1), (1)")
        with pytest.raises(asyncpg.UniqueViolationError):
            await driver.commit(connection, transaction, 5)
        assert driver.settle(connection)


class TestSockets:
    async def test_the_kernel_is_to_notice_a_peer_that_is_gone(self, connection: driver.Session) -> None:
        driver.tune_socket(connection, 10)
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        for name, value in (
            ("TCP_KEEPIDLE", 10),
            ("TCP_KEEPINTVL", driver.KEEPALIVE_INTERVAL),
            ("TCP_KEEPCNT", driver.KEEPALIVE_PROBES),
            ("TCP_USER_TIMEOUT", driver.TCP_USER_TIMEOUT * 1000),
        ):
            if hasattr(socket, name):
                assert sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value

    async def test_a_peer_that_is_gone_already_is_an_outage_on_every_loop(
        self, connection: driver.Session
    ) -> None:
        sock = connection._transport.get_extra_info("socket")
        connection.terminate()
        await eventually(lambda: sock.fileno() < 0)
        with pytest.raises(ConnectionResetError):
            driver.tune_socket(connection, 10)

    async def test_a_unix_socket_is_left_alone(self, postgres: PostgresServer) -> None:
        connection = await asyncpg.connect(postgres.dsn(unix=True))
        driver.tune_socket(connection, 10)
        assert driver.client_address(connection) is None
        await connection.close()

    async def test_the_other_end_s_address_and_its_tls(self, postgres: PostgresServer) -> None:
        """Its TLS is in `doctor/test_reaching.py`."""
        async with postgres.connect() as over_unix_socket:
            assert driver.peer_of(over_unix_socket) == (None, None)
        connection = await asyncpg.connect(postgres.dsn())
        assert driver.peer_of(connection) == ("127.0.0.1", None)
        await connection.close()

    async def test_this_ends_address_is_the_one_that_the_server_sees(
        self, connection: driver.Session
    ) -> None:
        seen = await connection.fetchrow(
            "SELECT host(inet_client_addr()) AS host, inet_client_port() AS port"
        )
        assert driver.client_address(connection) == f"{seen['host']}:{seen['port']}"


class TestLoops:
    async def test_a_session_opened_through_a_stand_in_forgets_its_cancelled_queries(
        self, postgres: PostgresServer
    ) -> None:
        """asyncpg looks tasks up by the event loop, so the session must belong to the real one."""
        loop = asyncio.get_running_loop()
        stand_in: Any = RedirectedLoop(loop, "127.0.0.1", lambda _: None)
        connection: driver.Session = await asyncpg.connect(postgres.dsn(), loop=stand_in)
        driver.belong_to(connection, loop, "127.0.0.1")
        with pytest.raises(TimeoutError):
            await connection.execute("SELECT pg_sleep(5)", timeout=0.05)
        await eventually(lambda: not connection._cancellations)
        await connection.close()


class TestTargets:
    def test_hosts_and_role(self) -> None:
        dsn = "postgresql://u:p@one:1,two:2/db?target_session_attrs=read-write"
        assert driver.targets_of(dsn, {}) == ([("one", 1), ("two", 2)], "read-write")

    def test_options_come_before_the_url(self) -> None:
        hosts, role = driver.targets_of("postgresql://one:1/db", {"host": "two", "port": 2})
        assert hosts == [("two", 2)]
        assert role == "any"

    def test_a_socket_is_named_by_its_directory(self, tmp_path: Path) -> None:
        hosts, _ = driver.targets_of(f"postgresql://u:p@/db?host={tmp_path}&port=5433", {})
        assert hosts == [(str(tmp_path), 5433)]

    def test_its_arguments_are_those_of_connect(self) -> None:
        taken = inspect.signature(connect_utils._parse_connect_dsn_and_args).parameters  # type: ignore[attr-defined]  # private
        assert set(taken) <= {"dsn", *inspect.signature(asyncpg.connect).parameters}
