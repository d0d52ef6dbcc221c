"""A WebSocket: it lives for hours, and borrows a connection for each message."""

from fastapi import APIRouter, WebSocket
from lifeguard.web import DatabaseDep, DrainDep
from pydantic import BaseModel, ValidationError

_GOING_AWAY, _NOT_UNDERSTOOD = (
    1012,
    1007,
)  # close codes (RFC 6455 and its registry): service restart, invalid data


class Question(BaseModel):
    item: str


class Answer(BaseModel):
    item: str
    quantity: int | None


router = APIRouter()


@router.websocket("/stock")
async def stock(socket: WebSocket, database: DatabaseDep, drain: DrainDep) -> None:
    """Answer each message; it ends with the client, or with the service."""
    await socket.accept()
    while not drain.draining:
        try:
            question = Question.model_validate_json(await socket.receive_text())
        except ValidationError:
            await socket.close(_NOT_UNDERSTOOD)
            return
        quantity = await database.fetchval(
            "SELECT quantity FROM stock WHERE item = $1", question.item, read=True
        )
        await socket.send_text(Answer(item=question.item, quantity=quantity).model_dump_json())
    await socket.close(_GOING_AWAY)
