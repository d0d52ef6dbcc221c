"""Lists in pages, by keyset: a page says where it ended, and the next one begins there.

    @router.get("")
    async def list_orders(
        connection: ReadConnectionDep, limit: pages.Limit = 20, cursor: pages.Cursor = None
    ) -> pages.Page[Order]:
        rows = await queries.list_orders(connection, after=pages.decode(cursor), limit=limit + 1)
        return pages.page([Order.model_validate(row) for row in rows], limit)

A token is eight bytes of an id in base64url, which clients send back and do not read. A keyset and not an
offset: page 1000 costs what page 1 does, and what is added meanwhile neither repeats nor hides a row, with
one exception. Ids are drawn when a row is inserted and rows are seen when their transaction commits: one that
commits late can appear below an id that a reader has passed. Who pages to copy everything reads the last
pages again, or the table in one transaction.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Annotated, Generic, Protocol, TypeVar

from fastapi import Path, Query
from pydantic import BaseModel, Field

from lifeguard.web.plain_int import PlainInt

LARGEST_ID = 2**63 - 1
"""The largest `bigint`."""
PATTERN = r"^[A-Za-z0-9_-]{11}$"
_BYTES = 8
_PADDING = "="

PathId = Annotated[PlainInt, Path(ge=1, le=LARGEST_ID)]
"""An id in a path."""
Limit = Annotated[PlainInt, Query(ge=1, le=100, description="Items on a page, at most.")]
Cursor = Annotated[str | None, Query(pattern=PATTERN, description="`next_cursor` of the page before.")]


class Numbered(Protocol):
    """What has an id by which it is listed."""

    @property
    def id(self) -> int: ...


Item = TypeVar("Item")
Listed = TypeVar("Listed", bound=Numbered)


class Page(BaseModel, Generic[Item]):
    items: list[Item]
    next_cursor: Annotated[str | None, Field(description="`cursor` of the next page; null on the last one.")]


def page(items: Sequence[Listed], limit: int) -> Page[Listed]:
    """The page of `limit` items, with a cursor if `items`, of which one more was asked for, has that one."""
    shown = list(items[:limit])
    return Page(items=shown, next_cursor=encode(shown[-1].id) if len(items) > limit else None)


def encode(last_id: int) -> str:
    """The token of the page that ends with `last_id`."""
    return urlsafe_b64encode(last_id.to_bytes(_BYTES, signed=True)).decode().rstrip(_PADDING)


def decode(token: str | None, first: int = 0) -> int:
    """The id in a token that matches PATTERN; without one `first`, from where the first page is read.

    Any such token is some place to go on from.
    """
    return int.from_bytes(urlsafe_b64decode(token + _PADDING), signed=True) if token else first
