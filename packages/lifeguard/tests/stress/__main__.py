"""`python -m packages.lifeguard.tests.stress --seconds 60 --seed 1 2 3 4 5 6 7 8 --loop asyncio uvloop`."""

from __future__ import annotations

import argparse
import asyncio
import sys

import uvloop
from lifeguard.testing.servers import PostgresServer, create_cluster, server_directory

from packages.lifeguard.tests.stress.trial import trial
from packages.lifeguard.tests.stress.world import World

LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


def main() -> int:
    parser = argparse.ArgumentParser(
        "packages.lifeguard.tests.stress", description="Random stress of a pool on a real server."
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of each trial")
    parser.add_argument("--seed", type=int, nargs="+", default=[1], metavar="N")
    parser.add_argument("--loop", choices=LOOPS, nargs="+", default=["uvloop"])
    chosen = parser.parse_args()
    good = True
    with server_directory() as directory:
        server = PostgresServer(create_cluster(directory / "stress"), {"max_connections": "200"})
        try:
            for name in chosen.loop:
                for seed in chosen.seed:
                    with asyncio.Runner(loop_factory=LOOPS[name]) as runner:
                        world = runner.run(_trial(server, seed, chosen.seconds))
                    print(f"{name}, seed {seed}: {verdict(world)}", flush=True)
                    good = good and not world.wrong
        finally:
            server.close()
    return 0 if good else 1


async def _trial(server: PostgresServer, seed: int, seconds: float) -> World:
    await server.start()
    return await trial(server, seed=seed, seconds=seconds)


def verdict(world: World) -> str:
    """What was done, and each kind of wrong with the first case of it."""
    done = ", ".join(f"{number} {what}" for what, number in world.done.most_common())
    wrong = [f"{world.times[kind]} x {kind}\n{detail}" for kind, detail in world.wrong.items()]
    return "\n\n".join(
        [f"{'nothing wrong' if not wrong else f'{len(wrong)} KINDS OF WRONG'} ({done})", *wrong]
    )


if __name__ == "__main__":
    sys.exit(main())
