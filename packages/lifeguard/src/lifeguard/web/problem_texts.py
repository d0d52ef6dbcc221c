"""When a client gets each of the engine's problems, and whether to ask again.

A new problem has its line here, or `make generated` fails and names it.
"""

from collections.abc import Mapping

_LATER = "after `Retry-After`"
_NO = "no: the same request gets the same answer"
_ANOTHER_CONNECTION = "on a new connection, with the request mended"

WHEN: Mapping[str, tuple[str, str]] = {
    "pool-saturated": (
        "More requests wait for a connection than can be served in time, so this one was turned away.",
        _LATER,
    ),
    "pool-timeout": (
        "It waited for its whole budget (`POOL_ACQUIRE_TIMEOUT`, or the client's `X-Request-Timeout`).",
        _LATER,
    ),
    "database-unavailable": (
        "The breaker is open, no connection can be made, the session was lost, or transactions that conflict "
        "got in the way each time. A transaction was not committed.",
        _LATER,
    ),
    "shutting-down": ("This instance drains. Another one answers.", _LATER),
    "statement-timeout": (
        "A statement, or its wait for a lock, took longer than `STATEMENT_TIMEOUT`, `LOCK_TIMEOUT`, "
        "`COMMAND_TIMEOUT` or the client's `X-Request-Timeout` allow, and was ended.",
        "it may help",
    ),
    "commit-unknown": (
        "COMMIT was sent and not confirmed. The write has happened, or it has not.",
        "only what is recognised as a repetition, as by an `Idempotency-Key`",
    ),
    "invalid-consistency-token": (
        "`X-Consistency-Token` was not made by this service, or `CONSISTENCY_SECRET` has changed since.",
        "without the token",
    ),
    "overloaded": (
        "The bodies of all requests under way together exceed `MAX_BUFFERED_BYTES`, or more connections are "
        "open than this process can have.",
        _LATER,
    ),
    "bad-request": (
        "What came is no request: its head or body cannot be read, a header is there twice that may be there "
        "once, the query has too many parameters, or `X-Request-Timeout` is no number from 0.01 on.",
        _NO,
    ),
    "validation": (
        "A value is missing, wrong or too much. `errors` names each field, and repeats no value. Without "
        "`errors` it is the database that does not take a value.",
        _NO,
    ),
    "not-found": ("There is no such route, or nothing of that name behind it.", _NO),
    "precondition-failed": (
        "`If-Match` names a version that is no longer the current one: somebody has changed it meanwhile.",
        "after the new version was read",
    ),
    "precondition-required": (
        "The route changes what others may change, too, and wants `If-Match` with the `ETag` that was read.",
        "with `If-Match`",
    ),
    "payload-too-large": (
        "The body is larger than `MAX_BODY_BYTES`, or than the route's `max_body()` allows.",
        _NO,
    ),
    "request-timeout": (
        "Head or body came too slowly. The connection is closed.",
        "on a new connection",
    ),
    "headers-too-large": (
        "The head has too many bytes, headers or cookies. The connection is closed.",
        _ANOTHER_CONNECTION,
    ),
    "uri-too-long": ("The target has too many bytes. The connection is closed.", _ANOTHER_CONNECTION),
    "expectation-failed": (
        "`Expect` asks for something else than `100-continue`. The connection is closed.",
        _ANOTHER_CONNECTION,
    ),
    "not-implemented": (
        "The method, or the coding of the body, is not known here. The connection is closed.",
        _ANOTHER_CONNECTION,
    ),
    "http-version-not-supported": (
        "The version is neither HTTP/1.1 nor HTTP/1.0. The connection is closed.",
        _ANOTHER_CONNECTION,
    ),
    "unauthorized": ("`/pool/leases` outside of development was asked without a token.", "with `OPS_TOKEN`"),
    "forbidden": ("`/pool/leases` was asked with a wrong token, or `OPS_TOKEN` is not set.", _NO),
    "foreign-origin": (
        "A page of another host opened a WebSocket, and CORS does not let its origin in.",
        _NO,
    ),
    "internal": (
        "An exception that nobody planned for. The log has it, under the request's id.",
        "it may help; it is a mistake of ours",
    ),
}
"""Each problem by its type: when it is answered, and when to ask again. docs/reference is made from this."""
