"""What lifeguard.web and lifeguard.server use of uvicorn, FastAPI and Starlette beyond their documentation.

The one list of it. These packages are pinned below their next minor in pyproject.toml; whoever raises a
pin runs this first. A name that moves fails here, with the name, and not under load.
"""

import dataclasses
import hashlib
import inspect
from contextlib import AsyncExitStack
from typing import Annotated, Any

import pytest
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, routing
from fastapi._compat.v2 import ModelField
from fastapi.dependencies import utils
from fastapi.dependencies.models import Dependant
from lifeguard.web import layer, strict_json, validation
from lifeguard.web.plans import internals
from pydantic.fields import FieldInfo
from starlette import _utils
from starlette._exception_handler import wrap_app_handling_exceptions
from starlette.applications import Starlette
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.websockets import WebSocket
from uvicorn import _types
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http import flow_control, httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

HOOKS = (
    *("connection_made", "connection_lost", "data_received", "on_message_begin", "on_header"),
    *("on_headers_complete", "on_message_complete", "on_response_complete", "send_400_response"),
    *("handle_websocket_upgrade", "_should_upgrade", "_unset_keepalive_if_required"),
    *("timeout_keep_alive_handler", "pause_writing", "resume_writing", "_start_asgi_task"),
)
ATTRIBUTES = (
    *("app_state", "cycle", "expect_100_continue", "flow", "headers", "logger", "loop", "parser"),
    *(
        "client",
        "root_path",
        "scope",
        "server_state",
        "timeout_keep_alive",
        "timeout_keep_alive_task",
        "transport",
    ),
)
OF_A_CYCLE = (
    *("body", "disconnected", "keep_alive", "message_event", "response_complete", "response_started"),
    *("chunked_encoding", "expected_content_length", "waiting_for_100_continue"),
)
OF_A_SOCKET = (
    *("close_sent", "close_timeout", "conn", "curr_msg_data_type", "frames", "handshake_complete"),
    *("handshake_initiated", "queue", "read_paused", "transport", "writable"),
)
SOCKET_HOOKS = (
    *("connection_lost", "data_received", "handle_bytes", "handle_cont", "handle_text", "pause_writing"),
    *("receive", "resume_writing", "send", "send_receive_event_to_app", "shutdown"),
)


async def nothing(*_: object) -> Response:
    return Response()


def scope_of(app: Any, path: str) -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": path, "headers": [], "app": app}


class TestUvicorn:
    @pytest.mark.parametrize("name", HOOKS)
    def test_calls_the_hooks_that_the_protocol_overrides(self, name: str) -> None:
        assert callable(getattr(HttpToolsProtocol, name))

    @pytest.mark.parametrize("name", ATTRIBUTES)
    def test_keeps_these_on_a_connection(self, name: str) -> None:
        assert name in HttpToolsProtocol.__init__.__code__.co_names

    @pytest.mark.parametrize("name", OF_A_CYCLE)
    def test_keeps_these_of_a_request(self, name: str) -> None:
        assert name in RequestResponseCycle.__init__.__code__.co_names

    @pytest.mark.parametrize("name", SOCKET_HOOKS)
    def test_calls_the_hooks_that_the_socket_protocol_overrides(self, name: str) -> None:
        assert callable(getattr(WebSocketsSansIOProtocol, name))

    @pytest.mark.parametrize("name", OF_A_SOCKET)
    def test_keeps_these_of_a_socket(self, name: str) -> None:
        assert name in WebSocketsSansIOProtocol.__init__.__code__.co_names

    def test_resumes_reading_in_one_place_that_can_be_overridden(self) -> None:
        assert flow_control.HIGH_WATER_LIMIT == 65536
        assert {"read_paused", "write_paused"} <= set(flow_control.FlowControl.__init__.__code__.co_names)
        assert callable(flow_control.FlowControl.resume_reading)

    def test_starts_a_cycle_with_its_app(self) -> None:
        assert [*inspect.signature(HttpToolsProtocol._start_asgi_task).parameters] == ["self", "cycle", "app"]

    def test_tells_whom_a_proxy_has_named(self) -> None:
        trusted = ProxyHeadersMiddleware(nothing, "127.0.0.1").trusted_hosts  # type: ignore[arg-type]  # is not called
        assert "127.0.0.1" in trusted
        assert trusted.get_trusted_client_address("192.0.2.1, 127.0.0.1") == ("192.0.2.1", 0)

    def test_keeps_the_app_and_whom_it_trusts_behind_proxies(self) -> None:
        app: Any = nothing
        assert ProxyHeadersMiddleware(app, "127.0.0.1").app is app
        config = uvicorn.Config(FastAPI(), log_config=None)
        config.load()
        assert type(config.loaded_app) is ProxyHeadersMiddleware

    def test_runs_an_app_with_the_methods_of_a_cycle(self) -> None:
        source = inspect.getsource(RequestResponseCycle.run_asgi)
        assert "self.scope, self.receive, self.send" in source
        assert not hasattr(RequestResponseCycle, "__slots__")  # or its class could not be another

    def test_ends_an_answer_in_this_order(self) -> None:
        source = inspect.getsource(RequestResponseCycle.send)
        steps = (
            "self.response_complete = True",
            "message_event.set()",
            "transport.close()",
            "self.on_response()",
        )
        assert [*sorted(steps, key=source.index)] == [*steps]
        assert "headers = self.default_headers + list(" in source

    def test_has_status_lines_default_headers_and_its_types(self) -> None:
        assert httptools_impl.STATUS_LINE[503].startswith(b"HTTP/1.1 503 ")
        assert ServerState().default_headers == []
        assert hasattr(_types, "ASGI3Application")

    def test_notes_the_url_when_a_request_begins(self) -> None:
        assert "url" in HttpToolsProtocol.on_message_begin.__code__.co_names

    @pytest.mark.parametrize("name", ["startup", "handle_exit", "serve", "should_exit", "capture_signals"])
    def test_has_these_of_a_server(self, name: str) -> None:
        assert hasattr(uvicorn.Server(uvicorn.Config("none:none", log_config=None)), name)

    def test_serves_within_the_signals_that_it_captures(self) -> None:
        assert "capture_signals" in uvicorn.Server.serve.__code__.co_names


class TestFastAPI:
    def test_says_what_a_route_is_with_the_prefixes_it_is_included_under(self) -> None:
        app, router = FastAPI(openapi_url=None, docs_url=None, redoc_url=None), APIRouter()
        router.add_api_route("/x", nothing, methods=["GET"])
        router.routes.append(Mount("/m", app=FastAPI()))
        app.include_router(router, prefix="/p")
        route, mount = routing.iter_route_contexts(app.routes)
        assert (route.path, route.methods, route.path_regex.pattern) == ("/p/x", {"GET"}, "^/p/x$")
        assert isinstance(route.dependant, Dependant)
        assert mount.path_regex.pattern == "^/p/m/(?P<path>.*)$"
        assert isinstance(mount._effective_route, Mount)

    def test_tells_what_a_dependant_calls(self) -> None:
        assert {"dependencies", "call"} <= set(inspect.signature(Dependant).parameters)

    def test_validates_every_value_by_one_method_whose_place_can_be_taken(self) -> None:
        assert "validate" in utils._validate_value_with_model_field.__code__.co_names
        fastapis_own = ["self", "value", "values", "loc"]
        assert [*inspect.signature(ModelField.validate).parameters][1:] in (
            fastapis_own[1:],
            ["value", "_", "loc"],
        )
        assert hasattr(ModelField(FieldInfo(annotation=int), name="x"), "_type_adapter")

    async def test_makes_a_validation_error_of_what_is_no_json(self) -> None:
        source = inspect.getsource(routing.get_request_handler)
        assert "await request.json()" in source
        assert "except json.JSONDecodeError as e" in source
        assert "raise validation_error from e" in source

    async def test_notes_in_the_scope_which_route_serves(self) -> None:
        app, router = FastAPI(openapi_url=None), APIRouter()
        router.add_api_route("/x", nothing, methods=["GET"])
        app.include_router(router, prefix="/p")
        scope = {**scope_of(app, "/p/x"), "query_string": b""}

        async def send(_: object) -> None: ...
        async def receive() -> dict[str, Any]:
            return {"type": "http.request"}

        await app(scope, receive, send)
        assert scope["fastapi"]["effective_route_context"].path == "/p/x"

    async def test_keeps_a_stack_that_it_leaves_before_it_sends(self) -> None:
        """Where `lifeguard.web.dependencies` leaves what it borrows."""
        app = FastAPI(openapi_url=None)
        order: list[str] = []

        async def borrowed(request: Request) -> None:
            stack: AsyncExitStack = request.scope["fastapi_function_astack"]
            assert stack is not request.scope["fastapi_inner_astack"]
            stack.callback(order.append, "returned")

        @app.get("/x")
        async def x(_: Annotated[None, Depends(borrowed, scope="function")]) -> None:
            order.append("endpoint")

        async def send(message: Any) -> None:
            order.append(message["type"])

        async def receive() -> dict[str, Any]:
            return {"type": "http.request"}

        await app({**scope_of(app, "/x"), "query_string": b""}, receive, send)
        assert order == ["endpoint", "returned", "http.response.start", "http.response.body"]
        assert "fastapi_function_astack" in utils.solve_dependencies.__code__.co_consts

    def test_counts_the_changes_of_a_routers_routes(self) -> None:
        app, router = FastAPI(openapi_url=None), APIRouter()
        app.include_router(router)
        assert isinstance(app.router.routes[-1], routing._IncludedRouter)
        assert app.router.routes[-1].original_router is router
        before = router._routes_version
        router.add_api_route("/x", nothing)
        assert router._routes_version > before


class TestWhatPlansRepeat:
    """If one of these fails, FastAPI answers requests in another way than plans do. Compare what has changed
    with `lifeguard.web.plans`, and only then write down the new digest, and `KNOWN_FASTAPI`."""

    DIGEST = "f59cb7e1dbce926c"

    def test_is_as_it_was(self) -> None:
        sources = [
            *(inspect.getsource(getattr(routing, name)) for name in internals.REPEATED),
            *(inspect.getsource(getattr(utils, name)) for name in internals.REPEATED_OF_DEPENDENCIES),
            inspect.getsource(wrap_app_handling_exceptions),
            inspect.getsource(ExceptionMiddleware.__call__),
            inspect.getsource(Response.__init__),
            inspect.getsource(Response.init_headers),
            inspect.getsource(Response.__call__),
            inspect.getsource(Request.body),
            inspect.getsource(Request.stream),
        ]
        digest = hashlib.sha256("".join(sources).encode()).hexdigest()
        assert digest[:16] == self.DIGEST

    def test_is_of_a_version_that_plans_know(self) -> None:
        strict_json.install()
        validation.install()
        assert internals.why_off() == ""

    @pytest.mark.parametrize("included", [True, False])
    def test_is_found_around_the_handler_of_a_route(self, included: bool) -> None:
        app, router = FastAPI(openapi_url=None), APIRouter()
        router.add_api_route("/x", nothing)
        if included:
            app.include_router(router)
        else:
            app.router.routes.extend(router.routes)
        (context,) = routing.iter_route_contexts(app.routes)
        assert (context._route_context is not None) is included
        assert internals.handler_of(context).keys() == internals.HANDLER_KNOWS

    def test_stands_between_the_middlewares_and_the_router(self) -> None:
        app = FastAPI(openapi_url=None)
        stack: Any = app.build_middleware_stack()
        while not isinstance(stack, ExceptionMiddleware):
            stack = stack.app
        assert internals.why_not_between(stack, app.router) == ""
        assert internals.why_not_between(stack.app, app.router)

    def test_is_kept_in_a_request(self) -> None:
        assert {"_body", "_stream_consumed"} <= set(
            Request.body.__code__.co_names + Request.stream.__code__.co_names
        )

    def test_knows_what_a_dependant_is(self) -> None:
        known = {field.name for field in dataclasses.fields(Dependant)}
        assert known == {
            *("path_params", "query_params", "header_params", "cookie_params", "body_params", "dependencies"),
            *("name", "call", "request_param_name", "websocket_param_name", "http_connection_param_name"),
            *("response_param_name", "background_tasks_param_name", "security_scopes_param_name"),
            *("own_oauth_scopes", "parent_oauth_scopes", "use_cache", "path", "scope", "concurrency"),
        }


class TestStarlette:
    def test_reads_json_in_places_that_can_be_taken(self) -> None:
        assert "request._json" in inspect.getsource(Request).replace("self", "request")
        assert inspect.iscoroutinefunction(Request.json)
        assert {"json", "loads"} <= set(WebSocket.receive_json.__code__.co_names)
        assert "json" in WebSocket.receive_json.__globals__

    def test_takes_the_root_path_from_the_path(self) -> None:
        assert _utils.get_route_path({"path": "/api/x", "root_path": "/api"}) == "/x"

    def test_matches_a_mount_by_what_the_routes_take_off_its_pattern(self) -> None:
        assert Mount("/a", app=FastAPI()).path_regex.pattern.endswith("/(?P<path>.*)$")

    def test_has_one_way_to_match_a_route(self) -> None:
        assert {"path_regex", "methods", "path"} <= vars(Route("/a", nothing)).keys()
        assert routing.APIRoute.matches is not Route.matches

    def test_builds_its_middleware_in_a_chain_of_apps(self) -> None:
        chain = [*layer._chain(FastAPI().build_middleware_stack())]
        names = tuple(f"{type(one).__module__}.{type(one).__qualname__}" for one in chain)
        assert names[:3] == layer._FASTAPIS

    def test_handles_errors_in_one_class_that_knows_its_handler(self) -> None:
        app: Any = nothing
        made = ServerErrorMiddleware(app, handler=app, debug=True)
        assert (made.app, made.handler, made.debug) == (app, app, True)

    def test_builds_its_middleware_once_in_a_method_that_can_be_overridden(self) -> None:
        app = Starlette()
        assert app.middleware_stack is None
        assert callable(app.build_middleware_stack)
