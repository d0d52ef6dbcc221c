"""What a borrower holds: an asyncpg connection in everything but ownership."""

from __future__ import annotations

import asyncio
from asyncio import current_task, get_running_loop, sleep
from collections.abc import Awaitable, Callable, Generator
from functools import partial, update_wrapper
from sys import _getframe
from time import monotonic
from typing import TYPE_CHECKING, Any, Self, TypeVar
from weakref import ref

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from lifeguard.pool import driver
from lifeguard.pool.callsite import Caller, borrowers, call_site_of
from lifeguard.pool.connection import PooledConnection
from lifeguard.pool.driver import run_at_hand
from lifeguard.pool.effects import Effect, effect_of, known_clean
from lifeguard.pool.errors import PoolError
from lifeguard.pool.lending import Lending
from lifeguard.pool.names import Place
from lifeguard.pool.recovery import Attempt, ReadOnce, note_failure, readable, recover
from lifeguard.pool.session_methods import SessionMethods, note_statement, returned

T = TypeVar("T")

_ALL, _ROW = object(), object()  # parts of a result, besides a column's number or name
_READS, _PINNED = object(), object()  # what a borrower has promised
_METHOD_OF = {_ALL: "fetch", _ROW: "fetchrow"}
_TAKING_MANY = frozenset(["executemany", "fetchmany"])


class Lease(SessionMethods):
    """A borrowed connection: has all of `asyncpg.Connection`. Before it is lent and after it is returned
    every call raises asyncpg.InterfaceError.

    `Pool.acquire()` gives one. It is used once: `async with` it, or `await` it and `Pool.release()` it.
    If it is dropped without being returned, the connection is reclaimed and that is reported.
    """

    __slots__ = ("_caller", "_place", "_promise", "_spent", "_timeout")

    _timeout: float | None
    _caller: Caller | None
    _place: Place | None
    _spent: bool
    _promise: object  # _READS, _PINNED or None

    if TYPE_CHECKING:

        def __init__(self) -> None: ...

    # -- borrowing and returning; these lines run for every request ---------------------------------

    def prepare_to_borrow(
        self, lending: Lending, timeout: float | None, caller: Caller | None, place: Place | None
    ) -> Self:
        """What is done with a new lease, in place of `__init__`: to call a class that has one costs twice as
        much."""
        self._lending = lending
        self._timeout = timeout
        self._caller = caller
        self._place = place
        self._spent = False
        self._promise = self._con = None
        return self

    async def __aenter__(self) -> Self:
        if self._spent:
            raise asyncpg.InterfaceError("a connection is already acquired")
        lending = self._lending
        state = lending.state
        loop = state.loop
        if get_running_loop() is not loop:
            state.refuse_other_loops()
        place = self._place
        asked_at = 0.0
        pooled = lending.lend_idle(place) if state.idle else None
        if pooled is not None:
            self._spent = True
        else:
            if state.has_setup:
                asked_at = monotonic()
            queues = lending.lanes if state.has_lanes else lending
            try:
                queue, waiter = queues.line_up(self._timeout, place)
            except PoolError:
                await sleep(0)  # a caller that tries again at once must let the loop mend the cause
                raise
            self._spent = True
            try:
                pooled = await waiter
            except BaseException:
                self._spent = False
                lending.give_up(queue, waiter)
                raise
        task = current_task(loop)
        pooled.task = held_by = ref(task) if task is not None else None
        pooled.caller = self._caller
        pooled.place = place
        pooled.failed = False
        frame = _getframe(1)
        code = frame.f_code
        pooled.call_site = (code, frame.f_lasti) if id(code) in borrowers else call_site_of(frame)
        if state.holders.setdefault(held_by, pooled) is not pooled:
            lending.leaks.nested(pooled)
        self._pooled = pooled
        self._con = pooled.connection
        if state.has_setup:
            await self._set_up(asked_at or pooled.borrowed_at, self._timeout)
        return self

    # Any, because a finished future is no Coroutine, as AbstractAsyncContextManager has it.
    def __aexit__(self, kind: object, error: object, trace: object) -> Any:
        lending = self._lending
        if self._con is not None:
            self._con = None
            lending.take_back(self._pooled)
        return lending.state.done  # there is nothing to wait for

    def __await__(self) -> Generator[Any, Any, Self]:
        return self.__aenter__().__await__()

    def end(self) -> None:
        """Return it; a second time does nothing."""
        if self._con is not None:
            self._con = None
            self._lending.take_back(self._pooled)

    def promise_to_read(self) -> None:
        """From now on the borrower's statements change nothing, so that one whose session is lost may be run
        again on another connection, also if it was sent. Not one that took longer than `outage_patience`:
        somebody may have ended its session for that."""
        if self._promise is None:
            self._promise = _READS

    def pin(self) -> None:
        """Have it keep to its connection: what is known of this session may not hold for another one. Where
        it would go on with the next connection, because this one has ended, StatementNotSent is raised."""
        self._promise = _PINNED

    def belongs_to(self, lending: Lending) -> bool:
        return self._lending is lending

    def __del__(self) -> None:
        if self._con is not None:
            self._lending.reclaim(self._pooled)

    async def _set_up(self, asked_at: float, timeout: float | None) -> None:
        """Run the `setup` hook within what the wait has left of the budget. What it does to the session is
        not undone: it does so for every borrower."""
        pooled = self._pooled
        config = self._lending.state.config
        assert config.setup is not None
        budget = config.acquire_timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(asked_at + budget - monotonic()):
                await config.setup(self)
            driver.check_transaction_ended(pooled.connection, "setup")
        except BaseException:
            pooled.retire("setup_failed")  # it is not known what state the session is in
            self.end()
            raise
        pooled.forget_borrower()

    async def _replace(self, dead: PooledConnection, timeout: float | None) -> PooledConnection:
        """Go on with the next connection that is free, in place of one that had ended before it was used.
        Waits for `timeout` seconds, `acquire_timeout` at most.

        Raises PoolError, InterfaceError if the lease is pinned or was returned meanwhile, and what `setup`
        raises.
        """
        if self._promise is _PINNED:
            raise asyncpg.InterfaceError("the lease keeps to its connection")
        lending = self._lending
        queue, waiter = lending.line_up_again(dead, timeout, self._place)
        try:
            fresh = await waiter
        except BaseException:
            lending.give_up(queue, waiter)
            raise
        fresh.failed = False
        if self._con is None:
            lending.take_back(fresh)
            raise asyncpg.InterfaceError("the connection has been released back to the pool")
        lending.hand_over(dead, fresh)
        self._pooled = fresh
        self._con = fresh.connection
        if lending.state.has_setup:
            await self._set_up(monotonic(), None)
        return fresh

    # -- statements ---------------------------------------------------------------------------------

    if not TYPE_CHECKING:  # typed by the base class
        # Not coroutines themselves: each layer of them costs a twentieth of a small query's time.
        def fetch(self, query, *args, timeout=None, record_class=None):
            if record_class is not None:
                return self._watch("fetch", query, *args, timeout=timeout, record_class=record_class)
            return self._run(query, args, timeout, _ALL)

        def fetchrow(self, query, *args, timeout=None, record_class=None):
            if record_class is not None:
                return self._watch("fetchrow", query, *args, timeout=timeout, record_class=record_class)
            return self._run(query, args, timeout, _ROW)

        def fetchval(self, query, *args, column=0, timeout=None):
            return self._run(query, args, timeout, column)

        def execute(self, query, *args, timeout=None):
            self._lent("execute")
            return self._watch("execute", query, *args, timeout=timeout)

        def executemany(self, command, args, *, timeout=None):
            return self._watch("executemany", command, readable(args), timeout=timeout)

        def fetchmany(self, query, args, *, timeout=None, record_class=None):
            return self._watch("fetchmany", query, readable(args), timeout=timeout, record_class=record_class)

        async def prepare(self, query, *, name=None, **kwargs):
            pooled = self._lent("prepare")
            bore_traces = pooled.bears_traces
            pooled.loosened()
            if isinstance(name, str):
                # The next borrower to use the name would find it taken, or lose its statement when asyncpg
                # closes this one late.
                pooled.changed_by(Effect.RUINOUS)
            return await self._watch("prepare", query, name=name, bore_traces=bore_traces, **kwargs)

    # -- calls --------------------------------------------------------------------------------------

    async def _run(self, query: str, args: tuple[object, ...], timeout: float | None, part: Any) -> Any:
        """Run a statement the short way, if asyncpg has prepared it before on this connection."""
        connection = self._con
        if connection is None:
            raise returned(_METHOD_OF.get(part, "fetchval"), self._caller)
        pooled = self._pooled
        bore_traces = None
        if query not in known_clean:
            bore_traces = pooled.bears_traces
            note_statement(pooled, query)
        running = run_at_hand(connection, query, args, 0 if part is _ALL else 1, timeout)
        if running is None:
            return await self._run_the_long_way(query, args, timeout, part, bore_traces)
        pooled.busy += 1
        try:
            rows = await running
        except BaseException as error:
            if bore_traces is None:
                bore_traces = pooled.bears_traces
            attempt = Attempt(query, bore_traces, cached=True, timeout=timeout, read=self._promise is _READS)
            if not await self._may_repeat(pooled, error, attempt):
                raise
        else:
            pooled.heard_of_at = monotonic()
            if part is _ALL:
                return rows
            if not rows:
                return None
            return rows[0] if part is _ROW else rows[0][part]
        finally:
            pooled.busy -= 1
        return await self._run_the_long_way(query, args, timeout, part, bore_traces, repeated=True)

    def _run_the_long_way(
        self,
        query: str,
        args: tuple[object, ...],
        timeout: float | None,
        part: Any,
        bore_traces: bool | None,
        *,
        repeated: bool = False,
    ) -> Awaitable[Any]:
        known: dict[str, Any] = {"timeout": timeout, "bore_traces": bore_traces, "repeated": repeated}
        if part is _ALL:
            return self._watch("fetch", query, *args, **known)
        if part is _ROW:
            return self._watch("fetchrow", query, *args, **known)
        if part:  # only what was asked for, as in `_watch`
            known["column"] = part
        return self._watch("fetchval", query, *args, **known)

    async def _watch(
        self,
        name: str,
        query: str,
        /,
        *args: Any,
        bore_traces: bool | None = None,
        repeated: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Call the connection's method `name`: read its statement, count the call, look at its error.
        `bore_traces` is how the session was before, if the statement was read already; `repeated` says that
        this is the second time."""
        pooled = self._lent(name)
        repeatable = not (repeated or (args and isinstance(args[0], ReadOnce)))
        attempt = self._attempt(pooled, query, repeatable=repeatable)
        attempt.timeout = kwargs.get("timeout")
        attempt.read = self._promise is _READS
        attempt.many = name in _TAKING_MANY
        attempt.cached = bool(args or name != "execute") and driver.is_cached(pooled.connection, query)
        if attempt.many and not (isinstance(args[0], (list, tuple)) and args[0]):
            pooled.loosened()  # prepared and perhaps not run: see `note_failure`
        if bore_traces is not None:
            attempt.bore_traces = bore_traces
        note_statement(pooled, query)
        # Only what was asked for: the method of a `connection_class` may take less.
        given = {option: value for option, value in kwargs.items() if value is not None}
        return await self._call(lambda session: getattr(session, name)(query, *args, **given), attempt)

    async def _call(self, call: Callable[[driver.Session], Awaitable[T]], attempt: Attempt) -> T:
        """Await `call` of the connection, and once more if that is safe."""
        pooled = self._pooled
        pooled.busy += 1
        try:
            answer = await call(pooled.connection)
        except BaseException as error:
            if not await self._may_repeat(pooled, error, attempt):
                raise
        else:
            pooled.heard_of_at = monotonic()
            return answer
        finally:
            pooled.busy -= 1
        pooled = self._pooled
        try:
            return await _counted(pooled, call)
        except BaseException as error:
            note_failure(self._lending, pooled, error)
            raise

    async def _may_repeat(self, pooled: PooledConnection, error: BaseException, attempt: Attempt) -> bool:
        """Let the pool learn from the error. Whether to make the call again, on the connection that the lease
        has by then. Raises an error that says the same more clearly, if there is one."""
        if self._con is None:  # returned while the call was under way
            return False
        again = await recover(self._lending, pooled, error, attempt, self._replace)
        if again is None:
            return False
        if attempt.query is not None:
            again.changed_by(effect_of(attempt.query))
        return True


async def _counted(pooled: PooledConnection, call: Callable[[driver.Session], Awaitable[T]]) -> T:
    pooled.busy += 1
    try:
        answer = await call(pooled.connection)
    finally:
        pooled.busy -= 1
    pooled.heard_of_at = monotonic()
    return answer


class LeaseOfOwnClass(Lease):
    """Of a pool with a `connection_class`: has what only that class has, and its methods' parameters."""

    __slots__ = ()

    if not TYPE_CHECKING:  # typed by the base class

        def __getattr__(self, name):
            return self._beyond(name)

        def fetch(self, query, *args, **options):
            return self._watch("fetch", query, *args, **options)

        def fetchrow(self, query, *args, **options):
            return self._watch("fetchrow", query, *args, **options)

        def fetchval(self, query, *args, **options):
            return self._watch("fetchval", query, *args, **options)

        def execute(self, query, *args, **options):
            self._lent("execute")
            return self._watch("execute", query, *args, **options)


def _complete() -> None:
    """Give the class what it has of `asyncpg.Connection` without having written it down."""
    for name, method in {**vars(SessionMethods), **vars(Lease)}.items():
        if callable(method) and not name.startswith("_") and hasattr(asyncpg.Connection, name):
            # Help, names and signatures are those of the methods that these stand for.
            update_wrapper(method, getattr(asyncpg.Connection, name))
    for name, method in vars(PoolConnectionProxy).items():
        if not name.startswith("_") and not hasattr(Lease, name):
            setattr(Lease, name, method)
    for name in dir(asyncpg.Connection):
        if not hasattr(Lease, name):
            setattr(Lease, name, property(partial(Lease._beyond, name=name)))  # noqa: SLF001 - its own


_complete()
