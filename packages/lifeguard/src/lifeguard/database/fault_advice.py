"""What to do about a password that is missing or refused, where the settings say where it is from."""

from __future__ import annotations

import re
from dataclasses import replace

from lifeguard.pool import PoolEvent
from lifeguard.settings import Settings
from lifeguard.settings.environment import shown

# As `describe_error()` has it, of one host or of several: SQLSTATE 28P01, and PgBouncer's words with 08P01.
_REFUSED = re.compile(r"InvalidPasswordError|(?:password|SASL) authentication failed")
_MISSING = re.compile(r"Password(?:Unavailable|Timeout)")


def advice_about(error: str, advice: str, settings: Settings) -> str:
    """`advice`, or of a password what to do about its source, in the order of `PasswordSource`."""
    if settings.database_password_command is not None and _MISSING.search(error):
        return (
            "run DATABASE_PASSWORD_COMMAND by hand, as this user: it must print the password within"
            f" POOL_CONNECT_TIMEOUT={settings.pool_connect_timeout:g} s, and end with exit code 0"
        )
    if not _REFUSED.search(error):
        return advice
    if settings.database_password_command is not None:
        source = "run DATABASE_PASSWORD_COMMAND by hand: what it prints is refused"
    elif settings.database_password_file is not None:
        file = shown(settings.database_password_file)
        source = f"look into DATABASE_PASSWORD_FILE={file}: what it has is refused"
    elif settings.has_password_hook:
        source = (
            "look at Settings.password_for(): what it gives is refused, or else what URL or PGPASSWORD has"
        )
    else:
        source = "correct the password in the URL, in PGPASSWORD or in the password file"
    return f"{source}; or the user's at the server, ALTER ROLE ... PASSWORD; and its pg_hba.conf"


def with_advice(event: PoolEvent, settings: Settings) -> PoolEvent:
    """The event, its advice by the settings if it has one."""
    if "advice" not in event.details:
        return event
    advice = advice_about(str(event.details["error"]), str(event.details["advice"]), settings)
    return replace(event, details={**event.details, "advice": advice})
