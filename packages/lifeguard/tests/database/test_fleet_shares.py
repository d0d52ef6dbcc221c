"""What the processes that share a server decide: the sum stays within it, in whatever order they act."""

from dataclasses import dataclass
from random import Random

import pytest
from lifeguard.database.fleet import (
    INTERVAL,
    SETTLE,
    Facts,
    Seat,
    Terms,
    Verdict,
    budget,
    confirm,
    decide,
    interval,
    plan,
)

LATER = SETTLE + 1
TERMS = Terms(headroom=0.75, ceiling=None, first=2)


def facts(*claims: int, mine: int = -1, room: int = 100, orphans: int = 0, age: float = LATER) -> Facts:
    """Of seats 0, 1, 2 ...; `mine` -1 has no seat yet."""
    return Facts(room, room, orphans, tuple(Seat(*seat) for seat in enumerate(claims)), mine, age)


class TestTheShare:
    def test_of_a_process_alone_is_all_but_its_seat(self) -> None:
        assert decide(facts(2, mine=0), TERMS, 2) == 74

    def test_is_the_same_for_all(self) -> None:
        shares = {plan(facts(5, 5, 5, 5, mine=seat), TERMS).share for seat in range(4)}
        assert shares == {75 // 4 - 1}

    def test_is_no_more_than_pool_max_size(self) -> None:
        assert decide(facts(2, mine=0), Terms(0.75, 10, 2), 2) == 10

    def test_leaves_room_for_a_newcomer_although_all_may_be_shared_out(self) -> None:
        assert budget(100, 100, 1.0) == 95
        assert budget(10, 10, 1.0) == 8

    def test_is_less_where_others_have_taken_the_server(self) -> None:
        assert budget(100, 40, 0.75) == 35

    def test_falls_as_soon_as_another_has_come(self) -> None:
        assert decide(facts(74, 0, mine=0), TERMS, 74) == 75 // 2 - 1


class TestANewcomer:
    def test_starts_with_what_is_free(self) -> None:
        assert decide(facts(20, 20, 30), TERMS, 0) == 1  # 73 are taken; one is its seat

    def test_claims_its_minimum_at_first(self) -> None:
        assert decide(facts(5, age=0.0), TERMS, 0) == TERMS.first

    def test_has_its_share_once_the_others_have_had_time_to_come_back(self) -> None:
        assert decide(facts(36, 2, mine=1), TERMS, 2) == 75 // 2 - 1

    def test_waits_seated_where_nothing_is_free(self) -> None:
        assert decide(facts(74), TERMS, 0) is Verdict.WAIT

    def test_does_not_stay_where_there_is_no_room_for_another_seat(self) -> None:
        seated = (70, *[0] * 16)  # 87 with their seats: 75, and half of what is left
        assert decide(facts(*seated), TERMS, 0) is Verdict.COME_AGAIN

    def test_finds_no_place_where_all_are_taken(self) -> None:
        assert decide(facts(*[1] * 37), TERMS, 0) is Verdict.NO_PLACE

    def test_that_has_waited_the_shortest_is_the_one_without_a_place(self) -> None:
        seats = [1] * 37 + [0]
        assert decide(facts(*seats, mine=36), TERMS, 1) == 1
        assert decide(facts(*seats, mine=37), TERMS, 0) is Verdict.NO_PLACE

    def test_does_not_get_what_a_crashed_process_still_has(self) -> None:
        assert decide(facts(36, orphans=37), TERMS, 0) is Verdict.WAIT


class TestTwoAtOnce:
    def test_use_no_more_than_fits_beside_what_the_other_has_said(self) -> None:
        assert confirm(facts(36, 36, 24, mine=2), TERMS, 24, before=0) is Verdict.WAIT
        assert confirm(facts(24, 36, 24, mine=2), TERMS, 24, before=0) == 12
        assert confirm(facts(24, 24, 24, mine=2), TERMS, 24, before=0) == 24

    def test_keep_what_they_had(self) -> None:
        assert confirm(facts(50, 36, mine=1), TERMS, 36, before=10) == 23


def test_many_ask_less_often() -> None:
    assert interval(2) == INTERVAL
    assert interval(1000) == 20.0


# -- any order ---------------------------------------------------------------------------------------


@dataclass
class Process:
    """One that acts in steps, between which the others act."""

    number: int
    said: int | None = None
    """On its seat; None: it has none."""
    claim: int = 0
    sessions: int = 0
    wants: int | None = None
    """What it has said and not confirmed yet."""
    alive: bool = True


class World:
    """A server and its processes. Every look and every word is an instant."""

    def __init__(self, dice: Random, room: int, headroom: float) -> None:
        self.dice = dice
        self.terms = Terms(headroom, None, dice.choice((1, 2, 5)))
        self.room = room
        self.processes: list[Process] = []

    def look(self, process: Process) -> Facts:
        seats = tuple(Seat(one.number, one.said) for one in self.processes if one.said is not None)
        orphans = sum(one.sessions for one in self.processes if one.said is None and one is not process)
        return Facts(self.room, self.room, orphans, seats, process.number, self.dice.choice((0.0, LATER)))

    def step(self) -> None:
        process = self.dice.choice(self.processes)
        if not process.alive:
            process.sessions = max(0, process.sessions - 1)  # the server notices one after the other
        elif process.wants is not None:
            self._confirm(process)
        elif process.sessions < process.claim and self.dice.random() < 0.5:
            process.sessions += 1
        elif process.sessions and self.dice.random() < 0.2:
            process.sessions -= 1
        elif self.dice.random() < 0.03:
            process.alive, process.said = False, None
        else:
            self._ask(process)

    def _ask(self, process: Process) -> None:
        decided = decide(self.look(process), self.terms, process.claim)
        if decided is Verdict.WAIT:
            decided = 0
        if isinstance(decided, Verdict):
            self._leave(process)
        elif decided > process.claim or process.said is None:
            process.said = process.wants = decided
        else:
            process.said = process.claim = max(decided, min(process.claim, process.sessions))

    def _confirm(self, process: Process) -> None:
        assert process.wants is not None
        allowed = confirm(self.look(process), self.terms, process.wants, process.claim)
        process.wants = None
        if allowed is Verdict.WAIT:
            allowed = 0
        if isinstance(allowed, Verdict):
            self._leave(process)
        else:
            process.said = process.claim = allowed

    @staticmethod
    def _leave(process: Process) -> None:
        process.said = None
        process.claim = 0

    @property
    def taken(self) -> int:
        """By those who may open connections, with their seats, and by those who are gone."""
        using = (1 + one.claim for one in self.processes if one.said is not None and one.claim)
        gone = (one.sessions for one in self.processes if one.said is None)
        return sum(using) + sum(gone)


@pytest.mark.parametrize("headroom", [0.75, 1.0])
def test_the_sum_stays_within_the_budget_in_whatever_order_they_act(headroom: float) -> None:
    for seed in range(60):
        dice = Random(seed)
        world = World(dice, dice.choice((12, 40, 100)), headroom)
        most = budget(world.room, world.room, headroom)
        for number in range(600):
            if number % 40 == 0:
                world.processes.append(Process(len(world.processes)))
            world.step()
            assert world.taken <= most, f"seed {seed}, step {number}"


def test_all_have_their_share_once_nobody_comes_or_goes() -> None:
    dice = Random(7)
    world = World(dice, 100, 0.75)
    world.processes = [Process(number) for number in range(9)]
    for _ in range(3):  # each time all have looked, others may have moved
        for _ in range(400):
            process = dice.choice(world.processes)
            world._confirm(process) if process.wants is not None else world._ask(process)
    assert {process.claim for process in world.processes} == {75 // 9 - 1}
