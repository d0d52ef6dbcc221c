"""Traces are on when the standard variables ask for them and the packages are there."""

from importlib.machinery import ModuleSpec

import pytest
from lifeguard.observability import traces
from opentelemetry import trace
from opentelemetry.util.types import AttributeValue
from starlette.types import Message, Receive, Scope, Send
from structlog.testing import capture_logs

from packages.lifeguard.tests.sample.settings import Settings

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry's packages are there, as far as anybody can tell."""
    monkeypatch.setattr(traces, "find_spec", lambda name: ModuleSpec(name, None))


def tracing(**variables: str) -> bool | None:
    return traces.telemetry(Settings(otel=variables)).get("tracing")


def test_are_off_unless_asked_for() -> None:
    with capture_logs() as lines:
        assert tracing() is False
    assert lines == []


@pytest.mark.usefixtures("packages")
def test_are_on_when_an_endpoint_is_named() -> None:
    assert tracing(**ENDPOINT) is True


@pytest.mark.usefixtures("packages")
def test_are_off_when_the_sdk_is_disabled() -> None:
    assert tracing(**ENDPOINT, OTEL_SDK_DISABLED="true") is False


@pytest.mark.parametrize("missing", ["opentelemetry.no_such_part", "no_such_package.part"])
def test_without_the_packages_a_line_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr(traces, "_PACKAGES", (missing,))
    with capture_logs() as lines:
        assert tracing(**ENDPOINT) is False
    assert [line["event"] for line in lines] == ["traces_off"]
    assert "pip install" in lines[0]["reason"]


class Span(trace.NonRecordingSpan):
    def __init__(self) -> None:
        super().__init__(trace.INVALID_SPAN_CONTEXT)
        self.attributes: dict[str, AttributeValue] = {"url.query": "token=canary"}

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        self.attributes[key] = value


async def test_do_not_carry_the_query() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    async def receive() -> Message:
        return {}

    async def send(message: Message) -> None:
        pass

    span = Span()
    with trace.use_span(span):
        await traces.WithoutQueries(app)({"type": "http", "query_string": b"token=canary"}, receive, send)
    assert span.attributes == {"url.query": ""}
