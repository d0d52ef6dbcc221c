"""What a process is: its listeners, the protocol on them, signals."""

from lifeguard.server.protocol import Protocol
from lifeguard.server.serving import run as serve

__all__ = ["Protocol", "serve"]
