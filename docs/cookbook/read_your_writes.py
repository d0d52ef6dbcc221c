"""Read your writes, for clients that keep no token: the session of each remembers its last write."""

from collections import OrderedDict
from typing import Annotated, NamedTuple
from uuid import UUID

from fastapi import APIRouter, Depends, Header
from lifeguard.web import DatabaseDep
from pydantic import BaseModel

MOST_SESSIONS = 10_000
_CREATE = "INSERT INTO orders (customer, item) VALUES ($1, $2) RETURNING id, item"
_LIST = "SELECT id, item FROM orders WHERE customer = $1 ORDER BY id DESC LIMIT 20"


class Order(BaseModel):
    id: int
    item: str


class NewOrder(BaseModel):
    item: str


class Sessions:
    """The token of what each session has written last; the sessions that wrote longest ago are forgotten.

    Of one process. Where there are several, keep it with what else you know of a session.
    """

    def __init__(self) -> None:
        self._written: OrderedDict[UUID, str] = OrderedDict()

    def note(self, session: UUID, token: str | None) -> None:
        if token is None:  # there is no replica, or nothing was written
            return
        self._written[session] = token
        self._written.move_to_end(session)
        if len(self._written) > MOST_SESSIONS:
            self._written.popitem(last=False)

    def written(self, session: UUID) -> str | None:
        return self._written.get(session)


sessions = Sessions()


class Session(NamedTuple):
    """In a service of yours: who is signed in."""

    id: UUID
    customer: str


def session_of(x_session: Annotated[UUID, Header()]) -> Session:
    return Session(x_session, f"customer of {x_session}")


SessionDep = Annotated[Session, Depends(session_of)]
router = APIRouter(prefix="/sessions/orders")


@router.post("", status_code=201)
async def create(new: NewOrder, session: SessionDep, database: DatabaseDep) -> Order:
    async with database.transaction() as transaction:
        row = await transaction.fetchrow(_CREATE, session.customer, new.item)
    sessions.note(session.id, database.token())  # behind the block: there is none before the COMMIT
    return Order.model_validate(dict(row or {}))


@router.get("")
async def latest(session: SessionDep, database: DatabaseDep) -> list[Order]:
    async with database.read(after=sessions.written(session.id)) as connection:
        rows = await connection.fetch(_LIST, session.customer)
    return [Order.model_validate(dict(row)) for row in rows]
