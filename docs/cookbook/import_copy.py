"""Many rows at once: the body is read as it comes, and goes to the server by COPY."""

import csv
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Request
from lifeguard.web import DatabaseDep, max_body, problems
from pydantic import BaseModel, Field, ValidationError

_LONGEST_LINE = 10_000  # characters
_COLUMNS = ("customer", "item", "quantity")

_MERGE = """
    INSERT INTO orders (customer, item, quantity)
    SELECT customer, item, sum(quantity)::int FROM incoming GROUP BY customer, item
    RETURNING id
"""


class Line(BaseModel):
    customer: str
    item: str
    quantity: Annotated[int, Field(ge=1, le=1_000_000)]


class Imported(BaseModel):
    lines: int
    orders: int


router = APIRouter(responses=problems.documented(*problems.WRITING))


@router.post(
    "/imports/orders",
    dependencies=[max_body(4 * 2**20)],
    responses=problems.documented(problems.Invalid, problems.PayloadTooLarge),
)
async def import_orders(request: Request, database: DatabaseDep) -> Imported:
    """Take a CSV with the columns customer, item, quantity, without a head: all of it or nothing."""
    rows = [row async for row in _rows(request)]  # first all of it: a slow client would hold the connection
    async with database.transaction() as transaction:
        await transaction.execute(
            "CREATE TEMPORARY TABLE incoming (customer text, item text, quantity int) ON COMMIT DROP"
        )
        await transaction.copy_records_to_table("incoming", records=rows, columns=_COLUMNS)
        orders = await transaction.fetch(_MERGE)
    return Imported(lines=len(rows), orders=len(orders))


async def _rows(request: Request) -> AsyncIterator[tuple[str, str, int]]:
    number = 0
    async for text in _lines(request):
        number += 1
        try:
            values = next(csv.reader([text], strict=True))
            line = Line.model_validate(dict(zip(_COLUMNS, values, strict=True)))
        except (csv.Error, StopIteration, ValueError, ValidationError) as error:
            raise problems.Invalid(f"Line {number} has not customer, item, quantity.") from error
        yield line.customer, line.item, line.quantity


async def _lines(request: Request) -> AsyncIterator[str]:
    """The body's lines, of which none may go on for ever."""
    rest = b""
    async for chunk in request.stream():
        *whole, rest = (rest + chunk).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            raise problems.Invalid("A line is too long.")
        for line in whole:
            yield _text(line)
    if rest:
        yield _text(rest)


def _text(line: bytes) -> str:
    try:
        return line.removesuffix(b"\r").decode()
    except UnicodeDecodeError as error:
        raise problems.Invalid("It is not UTF-8.") from error
