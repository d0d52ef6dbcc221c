"""Python's garbage collector, set for a process that answers requests."""

from __future__ import annotations

import gc

YOUNG, MIDDLE, OLD = 20_000, 10, 10
"""Objects that are made and not freed before the young ones are looked through, such collections before those
that were left are, and of these before all are.

A request makes hundreds of objects that live as long as it does. By Python's own thresholds (700, or 2,000,
for the young ones) they are looked through again and again while requests are under way, and found alive.
What is in a circle of references is freed later than before. How much may lie around follows from this:
20,000 objects of the last moments, and 200,000 of those that lived longer. Larger numbers for the older ones
would let circles that live for a second become hundreds of megabytes.
"""
_PYTHONS = gc.get_threshold()


def settle() -> None:
    """Have what was imported stay until the end, and what comes looked through less often.

    To look through what stays would stop every request for 0.1 s at each full collection, and the process as
    long at its end. Thresholds that the service has set for itself stay.
    """
    gc.freeze()
    if gc.get_threshold() == _PYTHONS:
        gc.set_threshold(YOUNG, MIDDLE, OLD)
