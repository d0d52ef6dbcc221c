"""The pool and its errors: `from lifeguard import Pool`. Needs asyncpg, and imports nothing else."""

from lifeguard.pool import Pool, PoolClosing, PoolError, PoolSaturated, PoolTimeout, PoolUnavailable

__all__ = ["Pool", "PoolClosing", "PoolError", "PoolSaturated", "PoolTimeout", "PoolUnavailable"]
