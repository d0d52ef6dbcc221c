"""Logs: structlog for this code and for the standard library's loggers, one line an event.

JSON, one object a line, for machines; columns and colours on a developer's terminal. A line written
while a request is served carries its id, and no line carries a secret: what is finished, tracebacks
included, goes through a `Scrubber`. No value is longer than `lifeguard.observability.bounds` says.

    log = structlog.get_logger(__name__)
    log.info("order_accepted", order=17, lines=3)
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from lifeguard.database import call_scope
from lifeguard.observability import bounds
from lifeguard.observability.access_line import AccessLine
from lifeguard.observability.scrub import Scrubber
from lifeguard.settings import Settings

# uvicorn's loggers. Its line for each request is replaced by the one of `lifeguard.web.middleware`.
_SERVER_LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.asgi")
_ACCESS_LOGGER = "uvicorn.access"
# Of structlog's configuration, what a line depends on.
_DECIDING = ("processors", "wrapper_class", "logger_factory", "context_class")


def configure(settings: Settings, *, stream: TextIO | None = None) -> None:
    """Send every log line of the process to `stream`, by default standard output."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared = _shared_processors()
    scrub = Scrubber(settings.secret_values())
    as_json = writes_json(settings, stream or sys.stdout)
    rendering = _rendering(settings, scrub, stream or sys.stdout, as_json=as_json)
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_LineLoggerFactory(stream),
        # Not cached on first use, so that a second configuration reaches every logger. Code on a hot path
        # keeps a bound logger, as the middleware does.
        cache_logger_on_first_use=False,
    )
    _Lines.configured = structlog.get_config() if as_json else {}
    _Lines.service, _Lines.scrub = settings.service_name, scrub
    _route_standard_logging(level, stream, shared, rendering)


class _Lines:
    """What `configure` has said last, for lines that structlog need not put together."""

    configured: Mapping[str, object] = MappingProxyType({})
    service = ""
    scrub = Scrubber()


def access_line(name: str) -> AccessLine | None:
    """Give what writes the lines of requests for the logger `name`. None: structlog has to, because lines are
    no JSON, or because somebody else has configured it since."""
    configured = structlog.get_config()
    if any(_Lines.configured.get(name) is not configured[name] for name in _DECIDING):
        return None
    lines = configured["logger_factory"](name)
    return AccessLine(
        name, configured["processors"], service=_Lines.service, scrub=_Lines.scrub, write=lines.msg
    )


def writes_json(settings: Settings, stream: TextIO) -> bool:
    """Whether lines are JSON by `LOG_FORMAT`; `auto` writes columns on a terminal only."""
    if settings.log_format == "auto":
        return not stream.isatty()
    return settings.log_format == "json"


def _shared_processors() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        _add_request_id,
        _add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _stack_below(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Let a `stack` that is a list of places be lines below the event; structlog takes it for a text."""
    places = event.get("stack")
    if isinstance(places, list | tuple):
        del event["stack"]
        if places:
            event["stack"] = "\n".join(f"  {place}" for place in places)
    return event


def _rendering(settings: Settings, scrub: Scrubber, stream: TextIO, *, as_json: bool) -> list[Processor]:
    def scrub_line(_logger: WrappedLogger, _method: str, line: Any) -> str:  # Any: structlog's own
        return scrub(line)

    if not as_json:
        columns = structlog.dev.ConsoleRenderer(
            colors=stream.isatty(),
            sort_keys=False,  # as they are said: of a request method, path and status come first
            # The richer formatters print local variables, and with them whatever they hold.
            exception_formatter=bounds.tell,
        )
        return [_stack_below, bounds.bounded(scrub), bounds.printable, columns, scrub_line]

    def add_service(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"] = settings.service_name
        return event

    return [
        add_service,
        structlog.processors.ExceptionRenderer(bounds.told),
        bounds.bounded(scrub),
        structlog.processors.JSONRenderer(default=str),
        scrub_line,
    ]


def _add_request_id(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if scope := call_scope.get():
        event["request_id"] = scope.tag
    return event


def _add_logger_name(logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    record = event.get("_record")
    event["logger"] = record.name if record else logger.name
    return event


class _LineLogger:
    """Writes finished lines, whatever their level; the name is that of its module."""

    def __init__(self, stream: TextIO | None, name: str) -> None:
        self.name = name
        self._stream = stream

    def msg(self, line: str) -> None:
        stream = self._stream or sys.stdout
        stream.write(f"{line}\n")  # one call: lines of several threads do not mix
        stream.flush()

    debug = info = warning = error = critical = msg


class _LineLoggerFactory:
    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def __call__(self, name: str = "app") -> _LineLogger:
        return _LineLogger(self._stream, name)


class _LineHandler(logging.Handler):
    """Writes the standard library's records as the same lines."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self._lines = _LineLogger(stream, "root")

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.msg(self.format(record))
        except Exception:  # noqa: BLE001 - logging never breaks the work that it reports on
            self.handleError(record)


def _route_standard_logging(
    level: int, stream: TextIO | None, shared: list[Processor], rendering: list[Processor]
) -> None:
    handler = _LineHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.setLevel(level)
    # Handlers of others, like a test's, stay.
    root.handlers = [handler, *(other for other in root.handlers if not isinstance(other, _LineHandler))]
    adopt_server_loggers()


class AlreadyLogged(Exception):
    """For the server, to end the connection: a line has been written, so that of uvicorn is left out."""


def adopt_server_loggers() -> None:
    """Have uvicorn's lines written like all others, and nothing of it for each request.

    To be repeated when the server has started: `fastapi run` sets its loggers up after the app's.
    """
    for name in _SERVER_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
        logger.addFilter(_is_news)
        logger.addFilter(_without_false_hint)
    access = logging.getLogger(_ACCESS_LOGGER)
    access.handlers.clear()
    access.propagate = False  # uvicorn then skips the work, not just the line


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], AlreadyLogged))


def _without_false_hint(record: logging.LogRecord) -> bool:
    """Leave out that Ctrl-C would end it now: so soon after the first it is taken for the same one."""
    record.msg = str(record.msg).removesuffix(" (CTRL+C to force quit)")
    return True
