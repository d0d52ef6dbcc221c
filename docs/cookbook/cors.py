"""CORS: pages of other origins may call this service from a browser."""

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

ORIGINS = ("https://shop.example",)  # never "*" together with cookies


def allow_origins(service: FastAPI) -> None:
    """Call it in `create_app`, after `service.protect(...)`: what is added last is outermost.

    So refusals have the headers too, and a page can read why it was refused.
    """
    service.add_middleware(
        CORSMiddleware,
        allow_origins=ORIGINS,
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "X-Consistency-Token"],
        expose_headers=["ETag", "Location", "Retry-After", "X-Consistency-Token", "X-Request-ID"],
        max_age=600,
    )
