"""A variable of your own: a field of the settings, and an endpoint that reads it."""

from typing import Annotated

from fastapi import APIRouter, Depends
from lifeguard import settings
from lifeguard.web import settings_of
from pydantic import BaseModel, Field, SecretStr


class Settings(settings.Settings):  # in app/settings.py: two more fields of the class that is there
    order_limit: Annotated[int, Field(ge=1)] = 100
    """Most orders of one customer that are open at once."""
    billing_token: SecretStr | None = None
    """What the billing service knows us by; without it nothing is billed."""


SettingsDep = Annotated[Settings, Depends(settings_of(Settings))]


class Limits(BaseModel):
    orders: int
    bills: bool


router = APIRouter()


@router.get("/limits")
async def limits(settings: SettingsDep) -> Limits:
    return Limits(orders=settings.order_limit, bills=settings.billing_token is not None)
