"""The line of a request: put together in the short way it is what structlog would write, byte for byte."""

import io
import re
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st
from lifeguard.database import CallScope, call_scope
from lifeguard.observability import logs
from lifeguard.observability.access_line import EVENT, AccessLine
from lifeguard.observability.bounds import LONGEST_VALUE
from lifeguard.settings.environment import secrets_read

from packages.lifeguard.tests.observability.test_logs import Terminal, configured
from packages.lifeguard.tests.sample.settings import Settings

NAME = "lifeguard.request"
SECRET = "canary-hush-hush"
VALUES: dict[str, Any] = {"database_url": f"postgresql://app:{SECRET}@db/x", "service_name": "shop"}
TIMESTAMP = re.compile(r'"timestamp": "(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{6})?Z)"')
USUAL: dict[str, Any] = {
    "method": "GET",
    "path": "/v1/accounts/1",
    "route": "/v1/accounts/{account_id}",
    "status": 200,
    "duration_ms": 1.25,
    "client": "127.0.0.1",
}
TEXTS = st.text(
    st.characters(codec="utf-8") | st.sampled_from('"\\/\x00\x1b\r\n\x7f\x85\u2028%@'), max_size=30
)
SECRETS = st.sampled_from(
    [SECRET, f"postgresql://a:{SECRET}@b", "%63anary-hush-hush", "password=x", "shop", "GET"]
)


def short_way() -> AccessLine:
    line = logs.access_line(NAME)
    assert line is not None
    return line


def without_time(line: str) -> str:
    return TIMESTAMP.sub("now", line)


def both(stream: io.StringIO, fields: dict[str, Any], tag: str = "r1") -> tuple[str, str]:
    """What the short way writes, and what structlog does, with the same fields in the same order."""
    fields = {name: fields[name] for name in (*USUAL, "problem") if name in fields}
    token = call_scope.set(CallScope(tag=tag))
    try:
        at = stream.tell()
        told = {name: value for name, value in fields.items() if name != "problem"}
        assert short_way().write(level="info", **told, tag=tag, problem=fields.get("problem"))
        short = stream.getvalue()[at:]
        at = stream.tell()
        structlog.get_logger(NAME).info(EVENT, **fields)
        return short, stream.getvalue()[at:]
    finally:
        call_scope.reset(token)


@given(
    fields=st.fixed_dictionaries(
        {
            "method": st.sampled_from(["GET", "POST"]) | TEXTS,
            "path": TEXTS | SECRETS,
            "route": TEXTS,
            "status": st.integers(100, 999),
            "duration_ms": st.floats(0, 1e9).map(lambda number: round(number, 2)),
            "client": st.none() | TEXTS | SECRETS,
        },
        optional={"problem": TEXTS | SECRETS},
    ),
    tag=st.text("abcXYZ019._-", min_size=1, max_size=40) | TEXTS | SECRETS,
)
@example(fields=USUAL, tag=SECRET)
@example(fields={**USUAL, "duration_ms": 0.0, "client": None, "problem": "/problems/not-found"}, tag="r1")
def test_is_structlogs_byte_for_byte(fields: dict[str, Any], tag: str) -> None:
    short, long = both(configured(**VALUES), fields, tag)
    assert without_time(short) == without_time(long)
    assert len(TIMESTAMP.findall(short)) == len(TIMESTAMP.findall(long)) == 1
    assert SECRET not in short


def test_has_its_secrets_taken_out_that_were_read_since() -> None:
    stream = configured(**VALUES)
    secrets_read.append("a-rotated-password")
    try:
        short, long = both(stream, {**USUAL, "path": "/x/a-rotated-password"})
    finally:
        secrets_read.pop()
    assert without_time(short) == without_time(long)
    assert '"path": "/x/***"' in short


@given(now=st.integers(0, 4_102_444_800_000_000_000))
@example(now=1_700_000_000_000_000_999)
@example(now=1_700_000_000_000_001_000)
def test_says_when_as_structlog_does(now: int) -> None:
    configured(**VALUES)
    moment = datetime.fromtimestamp(now // 1_000_000_000, UTC).replace(microsecond=now // 1000 % 1_000_000)
    assert short_way().timestamp(now) == moment.isoformat().replace("+00:00", "Z")


class TestIsLeftToStructlog:
    def test_in_columns(self) -> None:
        configured(log_format="console")
        assert logs.access_line(NAME) is None

    def test_on_a_terminal(self) -> None:
        configured(Terminal())
        assert logs.access_line(NAME) is None

    @pytest.mark.parametrize(
        "changed",
        [
            {"processors": [structlog.processors.JSONRenderer()]},
            {"wrapper_class": structlog.make_filtering_bound_logger(0)},
            {"logger_factory": structlog.PrintLoggerFactory()},
        ],
    )
    def test_when_somebody_else_has_configured_it(self, changed: dict[str, Any]) -> None:
        configured(**VALUES)
        structlog.configure(**changed)
        assert logs.access_line(NAME) is None

    def test_when_processors_are_changed_in_place(self) -> None:
        stream = configured(**VALUES)
        line = short_way()
        with structlog.testing.capture_logs():
            assert not line.write(level="info", **USUAL, tag="r1")
        assert line.write(level="info", **USUAL, tag="r1")
        structlog.get_config()["processors"].insert(0, lambda *_: {})
        assert not line.write(level="info", **USUAL, tag="r1")
        assert len(stream.getvalue().splitlines()) == 1

    def test_when_a_context_variable_is_bound(self) -> None:
        stream = configured(**VALUES)
        line = short_way()
        with structlog.contextvars.bound_contextvars(tenant="t1"):
            assert not line.write(level="info", **USUAL, tag="r1")
        assert not stream.getvalue()
        assert line.write(level="info", **USUAL, tag="r1")

    @pytest.mark.parametrize("field", ["path", "problem"])
    def test_when_a_value_has_to_be_cut(self, field: str) -> None:
        configured(**VALUES)
        assert not short_way().write(level="info", **{**USUAL, field: "x" * (LONGEST_VALUE + 1)}, tag="r1")


def test_keeps_a_bounded_number_of_parts() -> None:
    configured(**VALUES)
    line = short_way()
    for number in range(5_000):
        line.write(level="info", **{**USUAL, "route": f"/{number}"}, tag="r1")
    assert len(line._middles) <= 4096


def test_is_written_to_where_standard_output_is_by_then(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings.model_validate({**VALUES, "log_format": "json"}))
    assert short_way().write(level="info", **USUAL, tag="r1")
    assert '"request_id": "r1"' in capsys.readouterr().out
