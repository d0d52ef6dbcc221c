"""Where in the write-ahead log (WAL) a write is, and whether a server has replayed that.

The place after a COMMIT is asked on the session that has committed, so that it is of the server that has the
write, whatever happens to the primary meanwhile. It is asked after the COMMIT: what is asked before is below
the commit record. And it is the insert position, which is an upper bound with every `synchronous_commit`:
with `off`, the flushed one may still be below.

Whether a server has replayed a place is asked on the very session that then reads. What is known of a server
from elsewhere may be about another one: several may be behind one name, and one may have been put in the
place of another. A commit is visible to the snapshots that are taken once `pg_last_wal_replay_lsn()` has
reached its end.

Timelines. A promoted server begins a new one. What was written before the switch point is on both, with the
same places; what the old primary has written after it is lost. So a place of an old timeline is compared by
its number alone with a server on a later one: either the write is there, or no server has it. A server on an
earlier timeline than that of the place cannot have the write, whatever its number.
"""

from __future__ import annotations

from time import time
from typing import NamedTuple

import asyncpg

from lifeguard.database.aside import CANNOT_TELL
from lifeguard.pool import Lease

# `pg_walfile_name_offset()` knows the timeline, and the offset in the segment.
_WRITTEN = """
SELECT (place - '0/0'::pg_catalog.pg_lsn)::pg_catalog.int8 AS place, file_name, file_offset,
       pg_catalog.current_setting('wal_block_size')::pg_catalog.int4 AS block
FROM pg_catalog.pg_current_wal_insert_lsn() AS place, pg_catalog.pg_walfile_name_offset(place)
"""
# What is no standby writes a WAL of its own, whose places say nothing of the primary's.
# What a standby says of its timeline is that of its receiver, which superusers and pg_read_all_stats see, or
# that of its control file, which may be as old as its last restart point. It is never above the true one.
_REPLAYED = """
SELECT CASE WHEN in_recovery
            THEN (pg_catalog.pg_last_wal_replay_lsn() - '0/0'::pg_catalog.pg_lsn)::pg_catalog.int8
       END AS place
FROM pg_catalog.pg_is_in_recovery() AS in_recovery
"""
_TIMELINE = """
SELECT CASE WHEN in_recovery
            THEN GREATEST((SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver),
                          (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()),
                          (SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()))
       END AS timeline
FROM pg_catalog.pg_is_in_recovery() AS in_recovery
"""
# Bytes of the header of a WAL page, and of that of a segment's first page: `SizeOfXLogShortPHD` and
# `SizeOfXLogLongPHD` in PostgreSQL's xlog_internal.h.
_PAGE_HEADER, _SEGMENT_HEADER = 24, 40
TIMELINE_DIGITS = 8  # of a WAL file's name, in hexadecimal
FIRST_TIMELINE = 1

# A standby has no place where it writes.
NO_PRIMARY = asyncpg.ObjectNotInPrerequisiteStateError


class Position(NamedTuple):
    """A place in the WAL that a read has to be behind."""

    timeline: int
    """0: the place is not known, and only the primary surely has what was written."""
    lsn: int
    """Bytes since the beginning of the WAL."""
    noted_at: float
    """Seconds since 1970, by the clock of the process that has noted it."""

    @property
    def is_known(self) -> bool:
        return self.timeline > 0


def unknown() -> Position:
    """The position of a write of which only its server is known: the primary."""
    return Position(0, 0, time())


async def ask_written(lease: Lease, timeout: float) -> Position:
    """Where the WAL of the lease's server ends now: at or after all that the session has committed.

    Raises what the server and the network say, and TimeoutError after `timeout` seconds.
    """
    row = await lease.fetchrow(_WRITTEN, timeout=timeout)
    assert row is not None
    timeline = int(row["file_name"][:TIMELINE_DIGITS], 16)
    return Position(timeline, _end(row["place"], row["file_offset"], row["block"]), time())


def _end(place: int, offset: int, block: int) -> int:
    """The end of the last record, given where the next one begins.

    They are the same but where a page ends: the next record begins behind the header of the next page, and a
    server that has replayed the last one is in front of it. On an idle primary it would stay there.
    """
    if offset == _SEGMENT_HEADER:
        return place - _SEGMENT_HEADER
    return place - _PAGE_HEADER if offset % block == _PAGE_HEADER else place


async def has_replayed(lease: Lease, position: Position, timeout: float) -> bool:
    """Whether what the lease's session reads from now on includes the write at `position`.

    False too where the server does not say, or is no standby. Raises what the network says, and TimeoutError.
    """
    try:
        if position.timeline > FIRST_TIMELINE:
            timeline = await lease.fetchval(_TIMELINE, timeout=timeout)
            if timeline is None or timeline < position.timeline:
                return False
        place = await lease.fetchval(_REPLAYED, timeout=timeout)
    except (*CANNOT_TELL, NO_PRIMARY):
        return False
    return place is not None and place >= position.lsn
