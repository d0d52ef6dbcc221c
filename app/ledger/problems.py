"""What the ledger refuses, and why, as the client reads it."""

from __future__ import annotations

from fastapi_problem.error import StatusProblem


class InsufficientFunds(StatusProblem):
    type_, title, status = "insufficient-funds", "The account has not enough money", 409


class CurrencyMismatch(StatusProblem):
    type_, title, status = "currency-mismatch", "The accounts have different currencies", 409


class IdempotencyInProgress(StatusProblem):
    type_, title, status = "idempotency-in-progress", "The first request is still under way", 409


class IdempotencyMismatch(StatusProblem):
    type_, title, status = "idempotency-mismatch", "The key was used for another request", 422
