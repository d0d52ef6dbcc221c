"""What a running service says of its load: two looks at its `/metrics`, and one at `/pool`."""

from __future__ import annotations

import http.client
import json
import math
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel, ValidationError

from lifeguard.settings.environment import shown

PATIENCE = 5.0
"""Seconds without a byte until a service counts as silent, and for a whole answer."""
LARGEST_ANSWER = 8 * 2**20
"""Bytes: a hundred times what a service with many lanes says."""

_POOL = "db_client_connection_pool_name"
_USE = "db_client_connection_use_time_seconds"
_WAIT = "db_client_connection_wait_time_seconds"
_BEGUN = "process_start_time_seconds"

M = TypeVar("M", bound=BaseModel)


class NotObserved(Exception):
    """The service does not answer, or is none of ours, or idles; the message is one line."""


class Lane(BaseModel):
    """Of `/pool`, what matters for sizes."""

    name: str
    used: int
    waiting: int
    at_most: int | None
    shed: Mapping[str, int]


class _Stats(BaseModel):
    name: str
    min_size: int
    max_size: int
    shed: Mapping[str, int]
    lanes: tuple[Lane, ...]


class _Guarded(BaseModel):
    stats: _Stats


class _Pools(BaseModel):
    pools: tuple[_Guarded, ...]


@dataclass(frozen=True, slots=True)
class Observed:
    """The busiest pool of one process. Times are seconds."""

    pool: str
    seconds: float
    """Between the two looks; 0: since the process began."""
    rate: float
    """Connections borrowed and returned, a second."""
    hold: float
    """How long each was kept, on average."""
    wait: float
    """How long each was waited for, on average."""
    wait_p99: float | None
    """The bucket in which the slowest hundredth of the waits ends; None: above all buckets."""
    min_size: int
    max_size: int
    shed: int
    """Requests turned away since the process began."""
    lanes: tuple[Lane, ...]
    """Those that hold connections, wait, have a ceiling or were refused."""

    @property
    def in_use(self) -> float:
        return self.rate * self.hold

    @property
    def full(self) -> bool:
        """Whether its load was limited by the pool: how much is used then says nothing of what is needed."""
        return self.in_use > 0.9 * self.max_size


@dataclass(frozen=True, slots=True)
class _Look:
    at: float
    begun: float | None
    """Seconds since 1970 at which the process began."""
    uses: Mapping[str, float]
    held: Mapping[str, float]
    waits: Mapping[str, float]
    waited: Mapping[str, float]
    buckets: Mapping[str, Mapping[float, float]]


def observe(url: str, seconds: float, *, pause: Callable[[float], None] = time.sleep) -> Observed:
    """Look twice, `seconds` apart; with 0 once, at all since the process began. Raises NotObserved.

    It blocks. `pause` waits for so many seconds."""
    base = _base(url)
    if seconds > 0:
        before = _look(base)
        pause(seconds)
        after = _look(base)
        if before.begun != after.begun:
            raise NotObserved(f"{base}: two processes have answered; name one of them, or say --seconds=0")
        length = after.at - before.at
    else:
        after = _look(base)
        if after.begun is None:
            raise NotObserved(f"{base}: does not say when it began; say --seconds=10")
        before = _Look(0, None, {}, {}, {}, {}, {})
        length = max(time.time() - after.begun, 1e-3)
    pool = max(after.held, key=lambda name: after.held[name] - before.held.get(name, 0.0))
    uses, held, waits, waited = (
        getattr(after, number)[pool] - getattr(before, number).get(pool, 0.0)
        for number in ("uses", "held", "waits", "waited")
    )
    if uses <= 0 or held <= 0:
        when = f"in {seconds:g} s" if seconds else "since it began"
        raise NotObserved(f"{base}: {when} nobody has borrowed a connection; ask while it has its load")
    then = before.buckets.get(pool, {})
    buckets = {bound: count - then.get(bound, 0.0) for bound, count in after.buckets[pool].items()}
    stats = _stats(base, pool)
    return Observed(
        pool=pool,
        seconds=seconds,
        rate=uses / length,
        hold=held / uses,
        wait=waited / waits if waits > 0 else 0.0,
        wait_p99=next((bound for bound in sorted(buckets) if buckets[bound] >= 0.99 * waits), None),
        min_size=stats.min_size,
        max_size=stats.max_size,
        shed=sum(stats.shed.values()),
        lanes=tuple(lane for lane in stats.lanes if _matters(lane)),
    )


def _matters(lane: Lane) -> bool:
    return bool(lane.used or lane.waiting or lane.at_most is not None or sum(lane.shed.values()))


def _base(url: str) -> str:
    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        usable = parts.scheme in {"http", "https"} and parts.hostname and "@" not in parts.netloc
        if usable and parts.port != 0:  # the property raises ValueError for what is no port
            return f"{parts.scheme}://{parts.netloc}"
    except ValueError:
        pass
    raise NotObserved(f"--from={shown(url)}: must be http://host:port")


def _look(base: str) -> _Look:
    at = time.monotonic()
    text = _get(f"{base}/metrics")
    sums: dict[str, dict[str, float]] = defaultdict(dict)
    buckets: dict[str, dict[float, float]] = defaultdict(dict)
    begun = None
    try:
        for name, labels, value in _samples(text):
            if name == _BEGUN:
                begun = value
            elif name == f"{_WAIT}_bucket" and labels["le"] != "+Inf":
                buckets[labels[_POOL]][float(labels["le"])] = value
            elif name.startswith((_USE, _WAIT)) and not name.endswith("_bucket"):
                sums[name][labels[_POOL]] = value
    except (ValueError, KeyError) as error:
        raise _not_ours(base, "/metrics cannot be read") from error
    uses, held, waits, waited = (
        sums[f"{name}_{part}"] for name in (_USE, _WAIT) for part in ("count", "sum")
    )
    if not uses or not uses.keys() == held.keys() == waits.keys() == waited.keys() == buckets.keys():
        raise _not_ours(base, f"/metrics has no {_USE}")
    return _Look(at, begun, uses, held, waits, waited, buckets)


def _samples(text: str) -> Iterator[tuple[str, Mapping[str, str], float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith((_BEGUN, _USE, _WAIT)) and not math.isfinite(sample.value):
                raise ValueError(f"{sample.name} is {sample.value}")
            yield sample.name, sample.labels, sample.value


def _stats(base: str, pool: str) -> _Stats:
    try:
        answer = _Pools.model_validate(json.loads(_get(f"{base}/pool")))
        return next(one.stats for one in answer.pools if one.stats.name == pool)
    except (ValidationError, ValueError, RecursionError, StopIteration) as error:
        raise _not_ours(base, "/pool has no statistics of pools") from error


def _not_ours(base: str, why: str) -> NotObserved:
    return NotObserved(f"{base}: answers, and is no service of this kind: {why}")


def _get(url: str) -> str:
    """The body. No proxy of the environment: what is asked is near."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + PATIENCE
    body = b""
    try:
        with opener.open(url, timeout=PATIENCE) as answer:
            while piece := answer.read1(65_536):
                body += piece
                if len(body) > LARGEST_ANSWER or time.monotonic() > end:
                    raise NotObserved(f"{url}: its answer does not end")
        return body.decode()
    except urllib.error.HTTPError as error:
        error.close()
        where = "; with OPS_PORT it is on that port" if error.code == http.client.NOT_FOUND else ""
        raise NotObserved(f"{url}: {error.code} {error.reason}{where}") from error
    except UnicodeDecodeError as error:
        raise NotObserved(f"{url}: its answer is no text") from error
    except urllib.error.URLError as error:
        raise NotObserved(f"{url}: {_said(error.reason)}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotObserved(f"{url}: {_said(error)}") from error


def _said(error: object) -> str:
    text = str(error).splitlines()[0] if str(error).strip() else ""
    return text or type(error).__name__
