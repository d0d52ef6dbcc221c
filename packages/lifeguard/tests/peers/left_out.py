"""Tests of asyncpg's that are left out on purpose, by the reason; docs/pool.md has the same list."""

from collections.abc import Mapping

LEFT_OUT: Mapping[str, tuple[str, ...]] = {
    "There is no `connect`: the pool tries each host within a time of its own": (
        "test_pool.TestPool.test_pool_07",
        "test_pool.TestPool.test_pool_min_size_backs_off_on_target_attribute_mismatch",
        "test_pool.TestPool.test_pool_min_size_retries_failed_reconnect",
        "test_pool.TestPool.test_pool_shutdown_cancels_floor_reconnect",
    ),
    "There is no `max_queries`": ("test_pool.TestPool.test_pool_min_size_restored_after_recycling",),
    "Opening does not wait, so nobody comes too early": (
        "test_pool.TestPool.test_pool_init_race",
        "test_pool.TestPool.test_pool_init_and_use_race",
    ),
    "`Pool` does not inherit from `asyncpg.Pool`": ("test_pool.TestPool.test_pool_init_run_until_complete",),
    "The message has other words": (
        "test_pool.TestPool.test_pool_min_size_validation",
        "test_transaction.TestTransaction.test_transaction_within_manual_transaction",
        "test_transaction.TestTransaction.test_transaction_interface_errors",
    ),
    "A lease has ended when its `setup` has failed: every call on it raises": (
        "test_pool.TestPool.test_pool_exception_in_setup_and_init",
    ),
    "Releasing waits for nothing, so it cannot time out": (
        "test_pool.TestPool.test_pool_release_timeout_during_cancellation",
        "test_adversity.TestConnectionLoss.test_pool_acquire_timeout",
        "test_adversity.TestConnectionLoss.test_pool_release_timeout",
    ),
    "What is left behind is told by the event `left_behind`, not by a warning": (
        "test_pool.TestPool.test_pool_release_in_xact",
        "test_listeners.TestListeners.test_dangling_listener_warns",
        "test_listeners.TestLogListeners.test_dangling_log_listener_warns",
    ),
    "Without a server the error is `PoolUnavailable`, with the one expected as its `__cause__`": (
        "test_pool.TestPoolReconnectWithTargetSessionAttrs.test_full_reconnect_on_node_change_role",
    ),
    "It changes what is inside of `asyncpg.Pool`": (
        "test_pool.TestPool.test_pool_floor_reconnect_honors_expired_generation",
        "test_pool.TestPool.test_pool_min_size_retries_closed_connection",
        "test_pool.TestPool.test_pool_release_after_protocol_abort",
    ),
    "It makes a pool of asyncpg's own, or none": (
        "test_pool.TestHotStandby.test_standby_pool_01",
        "test_pool.TestHotStandby.test_standby_cursors",
    ),
}
