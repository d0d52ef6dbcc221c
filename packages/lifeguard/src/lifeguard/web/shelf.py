"""Where stale answers are kept: bounded, and so that no client pushes out what others need.

the most is kept of one route    that route gives way
of that route                    first what one client alone has asked for, as long as it is the greater part
of those                         the one made first
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from dataclasses import dataclass

from lifeguard.web.routes import Served

Headers = list[tuple[bytes, bytes]]
Place = tuple[bytes, str]
"""Host and path: two tenants by host are two places."""
Key = tuple[Place, tuple[tuple[str, str], ...], bytes | None]
"""Place, parameters of the query, and the `Accept` it was made for; None if it does not vary by that."""


@dataclass(slots=True)
class Answer:
    """Times are those of the layer's clock."""

    headers: Headers
    body: bytes
    client: str | None
    """Whose request it was made for."""
    made_at: float
    good_until: float
    shared: bool = False
    """Whether several clients have asked for it."""

    @property
    def size(self) -> int:
        return len(self.body) + sum(len(name) + len(value) for name, value in self.headers)


class _Answers:
    """Answers in the order in which they were made, and their bytes."""

    def __init__(self) -> None:
        self.by_key: OrderedDict[Key, Answer] = OrderedDict()
        self.bytes = 0

    def put(self, key: Key, answer: Answer) -> None:
        self.by_key[key] = answer
        self.bytes += _size(key, answer)

    def pop(self, key: Key) -> Answer | None:
        answer = self.by_key.pop(key, None)
        if answer is not None:
            self.bytes -= _size(key, answer)
        return answer

    @property
    def usage(self) -> tuple[int, int]:
        """Number and bytes."""
        return len(self.by_key), self.bytes


class _OfRoute:
    """What is kept of one route: what one client alone has asked for, and the rest."""

    def __init__(self) -> None:
        self.alone, self.shared = _Answers(), _Answers()

    def usage(self, of: int) -> int:
        """Number (0) or bytes (1) of its answers."""
        return self.alone.usage[of] + self.shared.usage[of]

    def oldest(self, of: int) -> Key:
        """The one to give up: of those of single clients, while they are the greater part."""
        larger = self.alone if self.alone.usage[of] >= self.shared.usage[of] else self.shared
        return next(iter(larger.by_key))


class Shelf:
    """Answers, bounded in number and bytes. The route with most of what is short gives way."""

    def __init__(self, most_answers: int, most_bytes: int) -> None:
        self._most = most_answers, most_bytes
        self._routes: dict[Served, _OfRoute] = {}
        self._found: dict[Key, tuple[Served, _Answers]] = {}
        self._places: defaultdict[Place, set[Key]] = defaultdict(set)

    def __len__(self) -> int:
        return len(self._found)

    def find(self, key: Key) -> Answer | None:
        found = self._found.get(key)
        return found[1].by_key[key] if found else None

    def put(self, served: Served, key: Key, answer: Answer) -> None:
        before = self._remove(key)
        answer.shared = before is not None and (before.shared or before.client != answer.client)
        route = self._routes.setdefault(served, _OfRoute())
        answers = route.shared if answer.shared else route.alone
        answers.put(key, answer)
        self._found[key] = served, answers
        self._places[key[0]].add(key)
        for of, most in enumerate(self._most):
            while sum(kept.usage(of) for kept in self._routes.values()) > most:
                self._remove(self._largest(of).oldest(of))

    def _largest(self, of: int) -> _OfRoute:
        return max(self._routes.values(), key=lambda kept: kept.usage(of))

    def forget(self, place: Place) -> None:
        for key in list(self._places.get(place, ())):
            self._remove(key)

    def _remove(self, key: Key) -> Answer | None:
        found = self._found.pop(key, None)
        if found is None:
            return None
        served, answers = found
        self._places[key[0]].discard(key)
        if not self._places[key[0]]:
            del self._places[key[0]]
        answer = answers.pop(key)
        if not self._routes[served].usage(0):
            del self._routes[served]
        return answer


def _size(key: Key, answer: Answer) -> int:
    (host, path), asked, accept = key
    parameters = sum(len(name) + len(value) for name, value in asked)
    return len(host) + len(path) + parameters + len(accept or b"") + answer.size
