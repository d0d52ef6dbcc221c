"""Sessions through a pooler, which gives each transaction whichever session of the server is free."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import asyncpg

if TYPE_CHECKING:
    # asyncpg's stubs leave its private names out.
    class _Connection(asyncpg.Connection):
        _stmt_cache_enabled: bool
        _server_caps: Any

        async def _get_statement(self, query: str, timeout: float | None, **more: Any) -> Any: ...
        async def _introspect_types(self, typeoids: Any, timeout: float | None) -> Any: ...

else:
    _Connection = asyncpg.Connection


class ThroughPooler(_Connection):
    """A connection that leaves nothing behind in the server's session.

    With `statement_cache_size=0` it names no statement at all. asyncpg itself would name those of cursors
    (`_get_statement`, `_stmt_cache_enabled`); without a name it parses them again in the round trip that runs
    them. It does not turn `jit` off for its questions about types, either: asyncpg does so for the
    session, and turns it on again in another one (`_introspect_types`, `_server_caps`).

    PgBouncer prepares a text once in each of the server's sessions, for all clients. After a change of the
    schema that statement fails, however often it is prepared anew: the text has to be another one.
    """

    __slots__ = ()

    async def _get_statement(
        self, query: str, timeout: float | None, *, named: Any = False, **more: Any
    ) -> Any:
        if named is True and not self._stmt_cache_enabled:
            named = False
        if _changes and self._stmt_cache_enabled:
            query = f"{query}\n-- {_changes[0]}"
        return await super()._get_statement(query, timeout, named=named, **more)

    async def _introspect_types(self, typeoids: Any, timeout: float | None) -> Any:
        self._server_caps = self._server_caps._replace(jit=False)
        return await super()._introspect_types(typeoids, timeout)


_changes: list[str] = []
"""The last change of a schema that this process has met, if any: it makes texts others than before."""


def renew_texts() -> None:
    """Have poolers prepare all statements anew."""
    _changes[:] = [secrets.token_hex(4)]


def through_pooler(kind: type[asyncpg.Connection] | None) -> type[asyncpg.Connection]:
    """The class of such connections: `kind`, if that is another one than asyncpg's, with the same care."""
    if kind is None or kind is asyncpg.Connection:
        return ThroughPooler
    return type(f"{kind.__name__}ThroughPooler", (ThroughPooler, kind), {})


def is_through_pooler(connection: object) -> bool:
    """Whether it was opened as one. `isinstance` says yes of every connection, asyncpg sees to that."""
    return ThroughPooler in type(connection).__mro__
