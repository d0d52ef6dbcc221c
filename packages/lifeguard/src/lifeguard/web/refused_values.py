"""Values that the database refuses: which of its errors are about what a client has sent.

A field of a request may be right by its type and still no value for its column: an `int` beyond `int4`, a
text longer than its `varchar`, a pattern that is no regular expression. That is the client's to mend. A value
of another type than the statement's, or a division by zero, is the endpoint's.
"""

from __future__ import annotations

import asyncpg

DETAIL = (
    "The database does not take a value of the request: it is too large or too long for its field, or not in"
    " the form that it has there."
)

_OF_A_VALUE = (
    asyncpg.StringDataRightTruncationError,  # 22001, too long for its varchar
    asyncpg.NumericValueOutOfRangeError,  # 22003
    asyncpg.InvalidDatetimeFormatError,  # 22007
    asyncpg.DatetimeFieldOverflowError,  # 22008
    asyncpg.IntervalFieldOverflowError,  # 22015
    asyncpg.InvalidRegularExpressionError,  # 2201B
    asyncpg.InvalidRowCountInLimitClauseError,  # 2201W
    asyncpg.InvalidRowCountInResultOffsetClauseError,  # 2201X
    asyncpg.InvalidEscapeSequenceError,  # 22025, LIKE with a backslash at the end
    asyncpg.InvalidJsonTextError,  # 22032
    asyncpg.InvalidTextRepresentationError,  # 22P02, a cast of a text
    asyncpg.UntranslatableCharacterError,  # 22P05, U+0000 in JSON
)


def is_of_the_client(error: asyncpg.DataError) -> bool:
    """Whether it is the value that does not fit, and not its type."""
    cause = error.__cause__
    if cause is None:
        return isinstance(error, _OF_A_VALUE)
    # The driver's own, of a value that it cannot encode: what it was raised from says why.
    while cause is not None:
        if not isinstance(cause, ValueError | ArithmeticError):
            return False
        cause = cause.__cause__ or cause.__context__  # of an element in an array
    return True
