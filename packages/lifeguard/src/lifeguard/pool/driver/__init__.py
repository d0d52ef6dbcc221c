"""The one place that touches what asyncpg keeps to itself.

Each function says which private names it needs; `packages/lifeguard/tests/pool/test_driver.py` fails when
one of them moves. Read for asyncpg 0.32.
"""

from lifeguard.pool.driver.copying import copy
from lifeguard.pool.driver.poolers import ThroughPooler, is_through_pooler, renew_texts, through_pooler
from lifeguard.pool.driver.sessions import (
    NOT_SENT,
    LikeAConnection,
    Session,
    check_transaction_ended,
    cut,
    drop_cancel_once_answered,
    executed,
    finish_cancelling,
    forget_listeners,
    is_cancelling,
    is_in_transaction,
    last_words,
    left_open,
    lost_its_place,
    never_sent,
    roll_back,
    settle,
)
from lifeguard.pool.driver.sockets import (
    KEEPALIVE_INTERVAL,
    KEEPALIVE_PROBES,
    TCP_USER_TIMEOUT,
    belong_to,
    client_address,
    peer_of,
    reading,
    targets_of,
    tune_socket,
)
from lifeguard.pool.driver.statements import (
    ask_parameters,
    close_forgotten_statements,
    forget_caches,
    is_cached,
    is_unresolved,
    parameters,
    run_at_hand,
)
from lifeguard.pool.driver.transactions import Isolation, Transaction, begin, commit

__all__ = [
    "KEEPALIVE_INTERVAL",
    "KEEPALIVE_PROBES",
    "NOT_SENT",
    "TCP_USER_TIMEOUT",
    "Isolation",
    "LikeAConnection",
    "Session",
    "ThroughPooler",
    "Transaction",
    "ask_parameters",
    "begin",
    "belong_to",
    "check_transaction_ended",
    "client_address",
    "close_forgotten_statements",
    "commit",
    "copy",
    "cut",
    "drop_cancel_once_answered",
    "executed",
    "finish_cancelling",
    "forget_caches",
    "forget_listeners",
    "is_cached",
    "is_cancelling",
    "is_in_transaction",
    "is_through_pooler",
    "is_unresolved",
    "last_words",
    "left_open",
    "lost_its_place",
    "never_sent",
    "parameters",
    "peer_of",
    "reading",
    "renew_texts",
    "roll_back",
    "run_at_hand",
    "settle",
    "targets_of",
    "through_pooler",
    "tune_socket",
]
