"""The service keeps what its own OpenAPI promises, whatever it is sent."""

from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import settings
from lifeguard.testing import eventually
from pydantic import SecretStr
from schemathesis.specs.openapi.checks import allow_header_conformance, positive_data_acceptance
from starlette.types import Message, Receive, Scope, Send

from app.main import create_app
from app.settings import Settings


class NewForEachTest:
    """The service on `url`. Schemathesis ends an app with the test; ours does not start twice."""

    url = "postgresql://nowhere/x"
    app: FastAPI | None = None

    def make(self) -> FastAPI:
        return create_app(
            Settings(
                app_env="production",  # where /pool/leases needs its token
                database_url=SecretStr(self.url),
                ops_token=SecretStr("a token for operators"),
                log_level="error",
            )
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.app is None or scope["type"] == "lifespan":
            self.app = self.make()

        async def send_when_ready(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await eventually(lambda: scope["state"]["readiness"].now().status == "ready")
            await send(message)

        await self.app(scope, receive, send_when_ready if scope["type"] == "lifespan" else send)


service = NewForEachTest()
api = schemathesis.openapi.from_dict(service.make().openapi())
api.app = service


@pytest.fixture(autouse=True)
def on_a_database_of_its_own(migrated_database: str) -> None:
    service.url = migrated_database


# Hypothesis sees the jitter that the service draws meanwhile, in a thread of its own.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
# /pool/live: a page for people, and a stream that never ends.
@api.exclude(path_regex="^/pool/live").parametrize()
@settings(max_examples=30, deadline=None)
def test_every_answer_is_as_documented(case: Any) -> None:
    case.call_and_validate(
        excluded_checks=[
            positive_data_acceptance,  # no schema can say that two fields must differ
            allow_header_conformance,  # Starlette names the methods of the first route of a path only
        ]
    )
