"""Lifeguard: a FastAPI and asyncpg service whose connection pool does not fall over."""
