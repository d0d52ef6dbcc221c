"""The stress of `python -m packages.lifeguard.tests.stress`, a short one."""

import pytest
from lifeguard.testing.servers import PostgresServer

from packages.lifeguard.tests.stress.__main__ import verdict
from packages.lifeguard.tests.stress.trial import trial


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [1, 2])
async def test_nothing_is_lost_leaked_or_left_whatever_happens_at_once(
    postgres: PostgresServer, seed: int
) -> None:
    world = await trial(postgres, seed=seed, seconds=8)
    assert not world.wrong, verdict(world)
