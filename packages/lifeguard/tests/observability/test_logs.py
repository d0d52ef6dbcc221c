"""Log lines: one JSON object each for machines, columns for people, the same for every logger."""

import io
import json
import logging
from typing import Any

import pytest
import structlog
from lifeguard.database import CallScope, call_scope
from lifeguard.observability import logs

from packages.lifeguard.tests.sample.settings import Settings

SECRET = "canary-hush-hush"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def configured(stream: io.StringIO | None = None, **values: object) -> io.StringIO:
    stream = stream or io.StringIO()
    logs.configure(Settings.model_validate(values), stream=stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def fail(text: str) -> None:
    raise ValueError(text)


class TestForm:
    @pytest.mark.parametrize(
        ("values", "stream", "as_json"),
        [
            ({}, io.StringIO(), True),
            ({}, Terminal(), False),
            ({"log_format": "json"}, Terminal(), True),
            ({"log_format": "console"}, io.StringIO(), False),
        ],
    )
    def test_follows_log_format(self, values: dict[str, object], stream: io.StringIO, as_json: bool) -> None:
        assert logs.writes_json(Settings.model_validate(values), stream) is as_json

    def test_json_is_one_object_a_line(self) -> None:
        stream = configured(service_name="shop")
        structlog.get_logger("app.orders").info("accepted", order=17, note="two\nlines", other=object)
        (line,) = lines(stream)
        assert line.pop("timestamp").endswith("Z")
        assert line == {
            "event": "accepted",
            "order": 17,
            "note": "two\nlines",
            "other": "<class 'object'>",
            "level": "info",
            "logger": "app.orders",
            "service": "shop",
        }

    def test_console_is_columns(self) -> None:
        stream = configured(log_format="console")
        structlog.get_logger("app.orders").warning("accepted", order=17)
        assert "[warning  ] accepted" in stream.getvalue()
        assert "order=17" in stream.getvalue()

    def test_console_shows_values_in_the_order_in_which_they_were_given(self) -> None:
        stream = configured(log_format="console")
        structlog.get_logger("lifeguard.request").info(
            "request", method="GET", path="/x", status=200, client="c"
        )
        assert "method=GET path=/x status=200 client=c" in stream.getvalue()

    def test_console_shows_a_list_of_places_below_its_line(self) -> None:
        stream = configured(log_format="console")
        places = ("app/main.py:7 in create", "app/main.py:9 in <module>")
        structlog.get_logger("app").warning("event_loop_blocked", stack=places, seconds=0.2)
        structlog.get_logger("app").warning("lease_overdue", stack=())
        line, *below, last = filter(None, map(str.strip, stream.getvalue().splitlines()))
        assert "seconds=0.2" in line
        assert below == list(places)
        assert "lease_overdue" in last

    def test_console_shows_a_traceback_below_its_line(self) -> None:
        stream = configured(log_format="console")
        try:
            fail("no such order")
        except ValueError:
            structlog.get_logger("lifeguard").exception("failed", order=17)
            logging.getLogger("library").exception("failed too")
        shown = stream.getvalue().splitlines()
        assert shown.count("Traceback (most recent call last):") == 2
        assert shown.count("ValueError: no such order") == 2

    def test_an_error_has_its_traceback_on_its_line(self) -> None:
        stream = configured()
        try:
            fail("no such order")
        except ValueError:
            structlog.get_logger("lifeguard").exception("failed")
            logging.getLogger("library").exception("failed too")
        for line in lines(stream):
            assert line["exception"].endswith("ValueError: no such order")

    def test_less_severe_lines_than_asked_for_are_left_out(self) -> None:
        stream = configured(log_level="warning")
        structlog.get_logger("lifeguard").info("no")
        logging.getLogger("library").info("no")
        structlog.get_logger("lifeguard").warning("yes")
        logging.getLogger("library").warning("yes")
        assert [line["event"] for line in lines(stream)] == ["yes", "yes"]


class TestWhatEveryLineCarries:
    def test_is_the_request_it_was_written_for(self) -> None:
        stream = configured()
        token = call_scope.set(CallScope(tag="r1"))
        structlog.get_logger("lifeguard").info("inside")
        logging.getLogger("library").warning("inside")
        call_scope.reset(token)
        structlog.get_logger("lifeguard").info("outside")
        assert [line.get("request_id") for line in lines(stream)] == ["r1", "r1", None]

    def test_is_what_was_bound(self) -> None:
        stream = configured()
        with structlog.contextvars.bound_contextvars(tenant="t1"):
            structlog.get_logger("lifeguard").info("inside")
        assert lines(stream)[0]["tenant"] == "t1"

    @pytest.mark.parametrize("log_format", ["json", "console"])
    def test_is_never_a_secret(self, log_format: str) -> None:
        url = f"postgresql://app:{SECRET}@db/x"
        stream = configured(log_format=log_format, database_url=url, ops_token=f"{SECRET}-token")
        structlog.get_logger("lifeguard").info(
            f"connecting to {url}", url=url, nested={SECRET: [f"{SECRET}-token"]}
        )
        logging.getLogger("library").warning("connecting to %s", url)
        try:
            fail(url)
        except ValueError:
            structlog.get_logger("lifeguard").exception("failed")
            logging.getLogger("library").exception("failed")
        assert stream.getvalue().count("***") >= 6
        assert SECRET not in stream.getvalue()


class TestBrokenOutput:
    def test_breaks_no_library(self, capsys: pytest.CaptureFixture[str]) -> None:
        configured().close()
        logging.getLogger("library").warning("into the void")
        assert "I/O operation on closed file" in capsys.readouterr().err


class TestServerLoggers:
    def test_are_taken_over(self) -> None:
        theirs = logging.StreamHandler(io.StringIO())
        for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
            logging.getLogger(name).addHandler(theirs)
        stream = configured()
        logging.getLogger("uvicorn.error").info("started")
        logging.getLogger("uvicorn.access").info("GET /")
        assert [line["event"] for line in lines(stream)] == ["started"]
        assert theirs.stream.getvalue() == ""

    def test_uvicorn_skips_its_access_line_altogether(self) -> None:
        configured()
        assert not logging.getLogger("uvicorn.access").hasHandlers()

    def test_handlers_of_others_stay(self) -> None:
        theirs = logging.NullHandler()
        logging.getLogger().addHandler(theirs)
        configured()
        configured()
        handlers = logging.getLogger().handlers
        assert theirs in handlers
        assert len([handler for handler in handlers if type(handler).__name__ == "_LineHandler"]) == 1
