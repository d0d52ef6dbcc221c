"""What a process is: its listeners, the protocol on them, signals."""

from lifeguard.server.process import serve
from lifeguard.server.protocol import Protocol

__all__ = ["Protocol", "serve"]
