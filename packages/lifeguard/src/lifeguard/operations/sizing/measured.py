"""Options, and a load that a running service tells where they do not."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lifeguard.operations.sizing.asked import LEAST_HOLD_MS, LEAST_RATE, Asked, read
from lifeguard.operations.sizing.observed import Observed, observe
from lifeguard.settings import SettingsError
from lifeguard.settings.environment import shown

_LONGEST = 3600.0
_USUAL = 10.0


def asked_of(
    given: Mapping[str, object], running: str | None, seconds: str | None
) -> tuple[Asked, Observed | None]:
    """What is asked, with the load of the service at the URL `running` if there is one: its rate counts for
    each process. Raises SettingsError, NotObserved."""
    length = _seconds(seconds)
    if running is None:
        if seconds is not None:
            raise SettingsError("--seconds: needs --from, the service to be measured")
        return read(given), None
    asked = read(given, measured=True)
    observed = observe(running, length)
    rate = max(LEAST_RATE, observed.rate * asked.processes)
    return asked.with_load(rate, max(LEAST_HOLD_MS, observed.hold * 1000)), observed


def _seconds(text: str | None) -> float:
    if text is None:
        return _USUAL
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= _LONGEST:
        raise SettingsError(f"--seconds={shown(text)}: must be a number from 0 to {_LONGEST:g}")
    return seconds
