"""The same service twice, with plans and without, to be asked the same."""

from collections.abc import Callable
from typing import Any

from lifeguard.service import Service

from packages.lifeguard.tests.inside import settings_for
from packages.lifeguard.tests.sample.main import create_app
from packages.lifeguard.tests.web import planned_routes
from packages.lifeguard.tests.web.asgi import Asked, ask

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"
Prepare = Callable[[Service], None]


def made(*, plans: bool, prepare: Prepare | None = None) -> Service:
    """The sample service with `planned_routes`; nothing of its is opened."""
    app = create_app(settings_for(NOWHERE, plans=plans, log_level="critical"))
    app.include_router(planned_routes.router)
    app.mount("/mounted/{tenant}", planned_routes.mounted)
    app.add_api_route("/top/{n}", planned_routes.inside, methods=["GET", "POST"])
    app.add_exception_handler(planned_routes.Teapot, planned_routes.teapot)
    if prepare:
        prepare(app)
    return app


class Both:
    """The same service with plans and without."""

    def __init__(self, prepare: Prepare | None = None) -> None:
        self.planned = made(plans=True, prepare=prepare)
        self.plain = made(plans=False, prepare=prepare)

    async def same(self, asked: Asked) -> bool:
        """Whether the answer was a plan's, which then is FastAPI's as well."""
        one, other = [await answer(app, asked) for app in (self.planned, self.plain)]
        assert one[:-1] == other[:-1], asked
        assert not other[-1]
        return bool(one[-1])


async def answer(app: Service, asked: Asked) -> tuple[Any, ...]:
    try:
        answered = await ask(app, asked, app.parts)
    except Exception as error:  # noqa: BLE001 - what is raised is compared, too
        return type(error), str(error), False
    return *answered.said, answered.planned
