"""A front that takes startup parameters as PgBouncer does, and passes on the rest to a real server."""

import asyncio
import struct

from lifeguard.testing.proxy import Link, Proxy
from typing_extensions import override

# https://www.pgbouncer.org/config.html#ignore_startup_parameters: those it keeps track of itself, less the
# name, which other poolers refuse.
TAKEN = {b"user", b"database", b"client_encoding", b"datestyle", b"timezone", b"standard_conforming_strings"}
_PROTOCOL_3 = 196608


class Pooler(Proxy):
    """Refuses a session that asks for a setting which is not among TAKEN."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self.refused: set[str] = set()

    @override
    async def _pass_questions(self, client: asyncio.StreamReader, link: Link) -> None:
        assert link.to_server is not None
        (size,) = struct.unpack("!i", head := await client.readexactly(4))
        packet = await client.readexactly(size - 4)
        if struct.unpack("!i", packet[:4])[0] == _PROTOCOL_3:
            for name in packet[4:].split(b"\0")[:-2:2]:
                if name.lower() not in TAKEN:
                    self.refused.add(name.decode())
                    await link.say(_fatal(f"unsupported startup parameter: {name.decode()}"))
                    return
        link.to_server.write(head + packet)
        await super()._pass_questions(client, link)


def _fatal(message: str) -> bytes:
    fields = b"".join(
        kind + text.encode() + b"\0" for kind, text in ((b"S", "FATAL"), (b"C", "08P01"), (b"M", message))
    )
    return b"E" + struct.pack("!i", len(fields) + 5) + fields + b"\0"
