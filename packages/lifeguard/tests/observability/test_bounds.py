"""What clients and errors put into a log line is cut, and half a secret is not left by that."""

import io
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import structlog
from lifeguard.observability import bounds, logs, output

from packages.lifeguard.tests.sample.settings import Settings

SECRET = "canary-hush-hush"
URL = f"postgresql://app:{SECRET}@db/x"
LONG = "x" * 100_000


@pytest.fixture(params=["json", "console"])
def stream(request: pytest.FixtureRequest) -> io.StringIO:
    stream = io.StringIO()
    settings = Settings.model_validate({"log_format": request.param, "database_url": URL})
    logs.configure(settings, stream=stream)
    return stream


def deep(frames: int) -> None:
    """A generator within a generator, for which Python has no limit of its own as for calls."""
    if frames:
        deep(frames - 1)
    else:
        raise ValueError("at the bottom of it")


def chained(errors: int) -> None:
    error: Exception | None = None
    for number in range(errors):
        following = KeyError(number)
        following.__cause__ = error
        error = following
    assert error
    raise error


def grouped(_: int) -> None:
    raise ExceptionGroup("many", [ValueError(LONG) for _ in range(50)])


class TestALine:
    @pytest.mark.parametrize(
        "value", [LONG, [LONG], {"a": LONG}, [1] * 100_000, LONG.encode(), ValueError(LONG)], ids=type
    )
    def test_has_no_value_that_is_too_long(self, stream: io.StringIO, value: object) -> None:
        structlog.get_logger("lifeguard").info("event", value=value)
        logging.getLogger("library").warning("%s", value)
        for line in stream.getvalue().splitlines():
            assert len(line) < bounds.LONGEST_VALUE + 500

    @pytest.mark.parametrize(
        ("fail", "times"), [(deep, 900), (chained, 5000), (grouped, 0)], ids=["deep", "chained", "grouped"]
    )
    def test_has_no_traceback_that_is_too_long(
        self, stream: io.StringIO, fail: Callable[[int], None], times: int
    ) -> None:
        try:
            fail(times)
        except Exception:
            structlog.get_logger("lifeguard").exception("failed")
            logging.getLogger("library").exception("failed too")
        assert len(stream.getvalue()) < 2 * (bounds.LONGEST_TRACEBACK + bounds.LONGEST_VALUE)

    def test_says_what_was_wrong_at_the_end_of_a_long_traceback(self, stream: io.StringIO) -> None:
        try:
            deep(900)
        except ValueError:
            structlog.get_logger("lifeguard").exception("failed")
        assert "ValueError: at the bottom of it" in stream.getvalue()

    @pytest.mark.parametrize("before", [*range(bounds.LONGEST_VALUE - 20, bounds.LONGEST_VALUE + 20, 3)])
    def test_is_not_cut_within_a_secret(self, stream: io.StringIO, before: int) -> None:
        structlog.get_logger("lifeguard").info("x" * before + SECRET + LONG)
        assert "can" not in stream.getvalue()

    def test_of_a_console_is_one_line_whatever_a_client_sends(self) -> None:
        stream = io.StringIO()
        logs.configure(Settings(log_format="console"), stream=stream)
        structlog.get_logger("lifeguard").warning(
            "refused", error="a\n2026-01-01 [info] all is well\x1b[2J\x9b"
        )
        assert stream.getvalue().count("\n") == 1
        assert "\x1b[2J" not in stream.getvalue()
        assert "\x9b" not in stream.getvalue()


class TestStandardError:
    @pytest.fixture
    def guard(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
        """Called in the test itself: between setting up and calling it, pytest puts its own stream back."""

        def guard() -> None:
            monkeypatch.setattr(sys, "stderr", sys.stderr)
            output.guard(Settings.model_validate({"database_url": URL}))

        yield guard
        monkeypatch.undo()
        before = sys.stderr
        output.guard(Settings())
        sys.stderr = before

    def test_shows_no_secret_in_what_nobody_has_caught(
        self, capsys: pytest.CaptureFixture[str], guard: Callable[[], None]
    ) -> None:
        guard()
        error = ValueError(URL)
        error.__cause__ = KeyError(SECRET)
        sys.__excepthook__(type(error), error, None)
        said = capsys.readouterr().err
        assert "ValueError: postgresql://app:***@db/x" in said
        assert SECRET not in said

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_nor_in_a_thread(
        self,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        guard: Callable[[], None],
    ) -> None:
        def fail() -> None:
            raise ValueError(SECRET)

        guard()
        monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        said = capsys.readouterr().err
        assert "ValueError: ***" in said
        assert SECRET not in said

    def test_is_guarded_once_however_often_that_is_asked_for(self, guard: Callable[[], None]) -> None:
        guard()
        guard()
        assert isinstance(sys.stderr, output.ScrubbedStream)
        assert not isinstance(sys.stderr.stream, output.ScrubbedStream)
        assert sys.stderr.writable()

    def test_and_lines_of_the_command_line_show_none(self, guard: Callable[[], None]) -> None:
        guard()
        assert output.shown(ValueError(f"for user {SECRET}")) == "for user ***"


def test_json_stays_json_whatever_is_hidden_in_it() -> None:
    stream = io.StringIO()
    logs.configure(Settings.model_validate({"log_format": "json", "database_url": URL}), stream=stream)
    log = structlog.get_logger("lifeguard")
    for text in (
        "password=",
        'password="a b',
        "password='",
        "{'password': 'it\\'s'}",
        '{"password": "\\"x"}',
    ):
        log.info(text, password=text, after=f"://a:{text}@b")
    assert [json.loads(line)["level"] for line in stream.getvalue().splitlines()] == ["info"] * 5
