"""A FastAPI app on SQLAlchemy's engine and sessions, as many are."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from sqlalchemy import select, update
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    item: Mapped[str]


class Stock(Base):
    __tablename__ = "stock"
    item: Mapped[str] = mapped_column(primary_key=True)
    quantity: Mapped[int]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    url = make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url, pool_size=10, pool_pre_ping=True)
    app.state.sessions = async_sessionmaker(engine, expire_on_commit=False)
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


async def session(request: Request) -> AsyncIterator[AsyncSession]:
    async with request.app.state.sessions() as session, session.begin():
        yield session


Session = Annotated[AsyncSession, Depends(session)]


@app.get("/orders/{number}")
async def show(number: int, session: Session) -> dict[str, object]:
    order = await session.scalar(select(Order).where(Order.id == number))
    if order is None:
        raise HTTPException(404)
    return {"id": order.id, "item": order.item}


@app.post("/orders", status_code=201)
async def create(item: str, session: Session) -> dict[str, object]:
    order = Order(customer="ada", item=item)
    session.add(order)
    await session.flush()
    await session.execute(update(Stock).where(Stock.item == item).values(quantity=Stock.quantity - 1))
    return {"id": order.id, "item": order.item}
