"""Users with bearer tokens: access tokens (JWT) of an OpenID Connect provider, checked here.

The provider signs; this service only needs its public keys, which it fetches and keeps (joserfc, httpx).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Annotated, Any

import httpx
import structlog
from fastapi import APIRouter, Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jws import extract_compact
from lifeguard import settings
from lifeguard.service import Service
from lifeguard.web import DatabaseDep, problems
from pydantic import BaseModel

_ALGORITHMS = ["RS256", "ES256"]  # what the provider signs with; never `none`, never HS256 with a public key
_LEEWAY = 30  # seconds by which clocks may differ
_PAUSE = 10.0  # seconds between two looks at the provider's keys, whatever tokens come

_log = structlog.get_logger("app.bearer_tokens")


class Settings(settings.Settings):  # in app/settings.py: three more fields
    oidc_issuer: str = "https://login.example"
    """Who issues our users' tokens: their `iss`."""
    oidc_audience: str = "orders"
    """What they are issued for: their `aud`."""
    oidc_keys: str = "https://login.example/.well-known/jwks.json"
    """Where the issuer's public keys are: `jwks_uri` of its `/.well-known/openid-configuration`."""


class SignInUnavailable(problems.Unavailable):
    type_, title = "sign-in-unavailable", "Tokens cannot be checked now"


class Keys:
    """The issuer's public keys, fetched when a token names one that is not known: so they can be rotated."""

    def __init__(self, client: httpx.AsyncClient, url: str, pause: float = _PAUSE) -> None:
        self._client = client
        self._url = url
        self._pause = pause
        self._known = KeySet([])
        self._looked_at: float | None = None
        self._looking = asyncio.Lock()

    async def with_key(self, name: str) -> KeySet:
        """The known keys, with the one of this name if there is one. Raises SignInUnavailable without any."""
        if not self._has(name):
            async with self._looking:  # one fetch for all who wait
                if not self._has(name) and self._may_look():
                    await self._look()
        if not self._known.keys:
            raise SignInUnavailable(headers={"Retry-After": "1"})
        return self._known

    def _has(self, name: str) -> bool:
        return any(key.kid == name for key in self._known.keys)

    def _may_look(self) -> bool:
        """Tokens with made-up names come as often as their senders like."""
        return self._looked_at is None or monotonic() - self._looked_at >= self._pause

    async def _look(self) -> None:
        try:
            answer = await self._client.get(self._url)
            answer.raise_for_status()
            self._known = KeySet.import_key_set(answer.json())
        except (httpx.HTTPError, JoseError, ValueError, KeyError) as error:
            _log.warning("keys_not_fetched", error=type(error).__name__)  # the known ones are good still
        self._looked_at = monotonic()


class Checker:
    """Tells whose a token is."""

    def __init__(self, settings: Settings, keys: Keys) -> None:
        self._keys = keys
        self._claims = jwt.JWTClaimsRegistry(
            leeway=_LEEWAY,
            iss={"essential": True, "value": settings.oidc_issuer},
            aud={"essential": True, "value": settings.oidc_audience},
            exp={"essential": True},
            sub={"essential": True},
        )

    async def claims(self, token: str) -> dict[str, Any]:  # Any: JSON
        """What the token says. Raises Unauthorized, and says nobody why: the log has that."""
        try:
            name = extract_compact(token.encode()).headers().get("kid")
            if not isinstance(name, str):
                raise problems.Unauthorized  # without a name any of the keys might be tried
            keys = await self._keys.with_key(name)
            claims = jwt.decode(token, keys, algorithms=_ALGORITHMS).claims
            self._claims.validate(claims)
        except (JoseError, ValueError, TypeError) as error:  # TypeError: a header of the wrong types
            _log.info("token_refused", reason=type(error).__name__)
            raise problems.Unauthorized from error
        return claims


@asynccontextmanager
async def lifespan(service: Service) -> AsyncIterator[dict[str, object]]:
    settings = service.parts["settings"]
    assert isinstance(settings, Settings)
    async with httpx.AsyncClient(timeout=5) as client:
        yield {"checker": Checker(settings, Keys(client, settings.oidc_keys))}


@dataclass(frozen=True)
class User:
    id: str
    scopes: frozenset[str]


async def user(
    request: Request,
    given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
) -> User:
    if given is None:
        raise problems.Unauthorized
    checker: Checker = request.state.checker
    claims = await checker.claims(given.credentials)
    return User(str(claims["sub"]), frozenset(str(claims.get("scope", "")).split()))


UserDep = Annotated[User, Depends(user, scope="function")]


async def may_write(user: UserDep) -> None:
    """For a route's `dependencies`: the user's token has the scope `orders:write`."""
    if "orders:write" not in user.scopes:
        raise problems.Forbidden


class OwnOrder(BaseModel):
    id: int
    item: str


router = APIRouter(
    prefix="/me",
    lifespan=lifespan,
    responses=problems.documented(*problems.WRITING, problems.Unauthorized, SignInUnavailable),
)


@router.get("/orders")
async def own_orders(user: UserDep, database: DatabaseDep) -> list[OwnOrder]:
    rows = await database.fetch(
        "SELECT id, item FROM orders WHERE customer = $1 ORDER BY id LIMIT 100", user.id, read=True
    )
    return [OwnOrder(**row) for row in rows]


@router.delete(
    "/orders",
    status_code=204,
    dependencies=[Depends(may_write)],
    responses=problems.documented(problems.Forbidden),
)
async def cancel_all(user: UserDep, database: DatabaseDep) -> None:
    await database.execute("UPDATE orders SET state = 'cancelled' WHERE customer = $1", user.id)
