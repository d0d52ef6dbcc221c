"""What the ledger refuses, and why, as the client reads it. docs/reference has what the docstrings say."""

from __future__ import annotations

from fastapi_problem.error import StatusProblem


class InsufficientFunds(StatusProblem):
    """The transfer would leave the account below zero."""

    type_, title, status = "insufficient-funds", "The account has not enough money", 409


class CurrencyMismatch(StatusProblem):
    """Money does not change its currency on the way."""

    type_, title, status = "currency-mismatch", "The accounts have different currencies", 409


class IdempotencyInProgress(StatusProblem):
    """The same key was sent again while the first request is at work. Ask again later."""

    type_, title, status = "idempotency-in-progress", "The first request is still under way", 409


class IdempotencyMismatch(StatusProblem):
    """The key came with other values before."""

    type_, title, status = "idempotency-mismatch", "The key was used for another request", 422
