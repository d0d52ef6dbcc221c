"""A CSV of any length by a server-side cursor: the rows are never all in memory, neither here nor there."""

import asyncio
import csv
import io
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from lifeguard.database import Database
from lifeguard.web import DatabaseDep, problems
from starlette.types import Receive, Scope, Send

_ROWS = 500  # of one round trip, and of one piece of the answer
_AT_ONCE = asyncio.Semaphore(2)  # an export holds a connection for as long as its client reads

router = APIRouter(responses=problems.documented(*problems.DATABASE))


class Export(StreamingResponse):
    """Gives the connection back when its client has gone, or has had its time."""

    longest = 300.0  # seconds that a client may take to read

    def __init__(self, lines: AsyncGenerator[str, None]) -> None:
        super().__init__(
            lines,
            media_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="orders.csv"'},
        )
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._lines), asyncio.timeout(self.longest):
            await super().__call__(scope, receive, send)


@router.get("/exports/orders.csv", response_class=StreamingResponse)
async def export(database: DatabaseDep) -> Export:
    lines = _lines(database)
    head = await anext(lines)  # what fails until here is a problem; what fails later breaks the answer off
    return Export(_after(head, lines))


async def _after(head: str, lines: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    async with aclosing(lines):
        yield head
        async for piece in lines:
            yield piece


async def _lines(database: Database) -> AsyncGenerator[str, None]:
    """The connection is borrowed in here: one of the endpoint's signature has gone back by then."""
    query = "SELECT id, customer, item, quantity FROM orders ORDER BY id"
    async with (
        _AT_ONCE,
        database.transaction(isolation="repeatable_read", read_only=True) as transaction,
    ):
        cursor = await transaction.cursor(query)
        yield _csv([("id", "customer", "item", "quantity")])
        while rows := await cursor.fetch(_ROWS):
            yield _csv(rows)


def _csv(rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()
