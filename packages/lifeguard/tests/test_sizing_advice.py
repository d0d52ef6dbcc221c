"""What `sizing` advises: its arithmetic holds for every server, load and number of processes."""

import json
from collections.abc import Mapping

import pytest
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as rounds
from hypothesis import strategies as st
from lifeguard.database.sizing import Capacity, size_pool
from lifeguard.operations.sizing import Advice, Asked, advise, as_environment, as_json, as_text, read
from lifeguard.settings import SettingsError
from typer.testing import CliRunner

from packages.lifeguard.tests.sample.commands import cli
from packages.lifeguard.tests.sample.settings import Settings

LOADS = ("carried", "tight", "too much")

_servers = st.fixed_dictionaries(
    {},
    optional={
        "disks": st.integers(0, 40),
        "max_connections": st.integers(1, 5000),
        "reserved": st.integers(0, 40),
        "share": st.floats(0.01, 1),
        "headroom": st.floats(0.1, 1),
        "standbys": st.integers(0, 3),
    },
)
_processes = st.fixed_dictionaries(
    {},
    optional={
        "replicas": st.integers(1, 400),
        "workers": st.integers(1, 8),
        "surge": st.integers(0, 100),
        "tasks": st.integers(1, 200),
        "scale_to_zero": st.booleans(),
    },
)
_loads = st.fixed_dictionaries({"rps": st.floats(0.01, 1e5), "hold_ms": st.floats(0.01, 1e5)})


@st.composite
def _questions(draw: st.DrawFn) -> dict[str, object]:
    """Options that are allowed together."""
    values: dict[str, object] = {**draw(_servers), **draw(_processes)}
    cores = draw(st.none() | st.integers(1, 256))
    if cores is not None:
        values["cores"] = cores
    if cores is None or draw(st.booleans()):
        load = draw(_loads)
        values |= load
        if draw(st.booleans()):
            values["idle_ms"] = draw(st.floats(0, 0.99)) * load["hold_ms"]
    if "tasks" in values:
        values["borrows"] = draw(st.integers(1, 4))
    try:
        read(values)
    except SettingsError:
        assume(False)
    return values


questions = _questions()
every_question = rounds(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def of(values: Mapping[str, object], **changed: object) -> Advice:
    return advise(read({**values, **changed}))


@every_question
@given(questions)
def test_is_never_more_than_the_server_has(values: dict[str, object]) -> None:
    advice = of(values)
    asked = advice.asked
    assert 0 < advice.at_server <= asked.comfortable <= asked.available
    assert asked.available <= asked.max_connections - asked.reserved
    assert 0 <= advice.min_size <= advice.max_size


@every_question
@given(questions)
def test_the_sums_agree(values: dict[str, object]) -> None:
    advice = of(values)
    asked = advice.asked
    assert asked.instances == asked.processes + asked.surging * asked.workers
    each = advice.max_size + bool(asked.standbys)
    if advice.pooler is None:
        assert advice.at_server == asked.instances * each
    else:
        sizes = advice.pooler
        assert advice.at_server == sizes.default_pool_size + sizes.reserve_pool_size
        assert sizes.max_client_conn >= asked.instances * each
    assert advice.megabytes == (5 * advice.at_server, 10 * advice.at_server)


@every_question
@given(questions)
def test_the_service_starts_with_the_lines_without_a_warning(values: dict[str, object]) -> None:
    advice = of(values)
    lines = dict(line.split("=", 1) for line in as_environment(advice).splitlines() if line[0] != "#")
    settings = Settings.model_validate({name.lower(): value for name, value in lines.items()})
    assert settings.pool_max_size == advice.max_size
    if advice.pooler is None:
        capacity = Capacity(advice.asked.max_connections, advice.asked.reserved, None)
        assert size_pool(settings, capacity).warning is None


@every_question
@given(questions, st.floats(1, 10))
def test_more_load_needs_no_less(values: dict[str, object], more: float) -> None:
    advice = of(values)
    asked = advice.asked
    if asked.rps is None or asked.hold_ms is None:
        return
    busier = of(values, rps=asked.rps * more)
    if advice.pooler is None and busier.pooler is None:
        assert busier.min_size >= advice.min_size
    for other in (busier, of(values, hold_ms=asked.hold_ms * more)):
        assert advice.needed is not None
        assert other.needed is not None
        assert other.needed >= advice.needed
        assert LOADS.index(other.load) >= LOADS.index(advice.load)


@every_question
@given(questions, st.integers(1, 64))
def test_a_larger_server_carries_no_less(values: dict[str, object], more: int) -> None:
    advice = of(values)
    larger = {"max_connections": advice.asked.max_connections + more, "disks": advice.asked.disks + more}
    if advice.asked.cores is not None:
        larger["cores"] = advice.asked.cores + more
    for name, value in larger.items():
        other = of(values, **{name: value})
        assert other.capacity >= advice.capacity
        assert other.asked.comfortable >= advice.asked.comfortable
        if advice.load != "unknown":
            assert LOADS.index(other.load) <= LOADS.index(advice.load)


@every_question
@given(questions, st.integers(1, 50))
def test_more_processes_have_no_larger_pools(values: dict[str, object], more: int) -> None:
    advice = of(values, surge=1)
    other = of(values, surge=1, replicas=advice.asked.replicas + more)
    if advice.pooler is None and other.pooler is None:
        assert other.max_size <= advice.max_size


@every_question
@given(questions)
def test_below_the_hold_time_that_it_names_the_load_is_carried(values: dict[str, object]) -> None:
    advice = of(values)
    longest = advice.longest_hold_ms
    assert (longest is not None) == (advice.load == "too much")
    if longest is not None and longest * 0.999 > max(advice.asked.idle_ms, 0.001):
        assert of(values, hold_ms=longest * 0.999).load != "too much"
        assert of(values, hold_ms=longest * 1.001).load == "too much"


@every_question
@given(questions)
def test_with_the_sessions_that_it_names_no_pooler_is_due(values: dict[str, object]) -> None:
    pooler = of(values).pooler
    if pooler is None or pooler.instead > 262_143:
        return
    assert of(values, max_connections=pooler.instead).pooler is None
    if pooler.instead > read(values).max_connections + 1:
        assert of(values, max_connections=pooler.instead - 1).pooler is not None


@every_question
@given(questions)
def test_pools_have_room_for_all_that_tasks_hold_or_it_says_so(values: dict[str, object]) -> None:
    """As many as all but one connection of every task, and one more, with which somebody goes on."""
    advice = of(values)
    asked = advice.asked
    held = (asked.tasks or 1) * (asked.borrows - 1)
    assert advice.can_deadlock or advice.max_size > held
    if advice.pooler and not advice.can_deadlock and held:
        assert advice.at_server > held * asked.instances
    assert not (advice.can_deadlock and advice.works)


@every_question
@given(questions)
def test_text_json_and_lines_say_the_same(values: dict[str, object]) -> None:
    advice = of(values)
    told = json.loads(as_json(advice))
    lines = [f"{name}={value}" for name, value in told["environment"].items()]
    assert as_environment(advice).splitlines()[: len(lines)] == lines
    text = as_text(advice)
    assert "e+0" not in text
    assert all(line in text for line in lines if not line.startswith("POOL_INSTANCES"))
    assert f" {told['instances']} while a deploy rolls" in text
    assert ("TOO MUCH" in text) == (told["load"] == "too much")
    assert Asked.model_validate(told["asked"]) == advice.asked


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"cores": 8}, (17, 5)),
        ({"cores": 8, "disks": 0}, (16, 5)),
        ({"cores": 8, "replicas": 4}, (5, 5)),  # 17 / 4
        ({"cores": 8, "rps": 200, "hold_ms": 20}, (17, 4)),  # 4 in use
        ({"cores": 8, "rps": 200, "hold_ms": 20, "replicas": 2}, (9, 2)),
        ({"rps": 200, "hold_ms": 20}, (6, 4)),  # 4 in use / 0.75
        ({"cores": 2, "rps": 200, "hold_ms": 20}, (5, 4)),  # tight: what the server does at once
        ({"rps": 100, "hold_ms": 100, "idle_ms": 90, "cores": 2}, (14, 10)),  # 1 of 10 at work
        ({"cores": 4, "tasks": 1, "replicas": 30, "scale_to_zero": True}, (1, 0)),
        ({"cores": 4, "tasks": 10, "borrows": 2}, (11, 5)),  # 10 x (2 - 1) + 1
        ({"cores": 32, "replicas": 20}, (2, 2)),  # 3 of 65 would be, were it not for 25 while a deploy rolls
    ],
)
def test_examples(values: dict[str, object], expected: tuple[int, int]) -> None:
    advice = of(values)
    assert (advice.max_size, advice.min_size) == expected


def test_the_queue_is_what_is_served_in_time_and_its_target_no_less_than_a_hold() -> None:
    quick = of({"rps": 200, "hold_ms": 20})
    assert (quick.max_size, quick.max_waiting, quick.queue_target) == (6, 1000, 0.25)
    slow = of({"rps": 4, "hold_ms": 1000})
    assert (slow.max_size, slow.max_waiting, slow.queue_target) == (6, 30, 1)


def test_many_processes_get_a_pooler_with_sizes_for_both_sides() -> None:
    pooler = of({"cores": 4, "replicas": 40, "workers": 2, "rps": 300, "hold_ms": 10}).pooler
    assert pooler is not None
    assert (pooler.default_pool_size, pooler.reserve_pool_size) == (9, 3)
    assert (pooler.max_client_conn, pooler.instead) == (100 * 3, 270)


@pytest.mark.parametrize(
    "given",
    [
        *(["--cores", bad] for bad in ("0", "-1", "1.5", "nan", "inf", "many", "1e9", "", " ", "9" * 5000)),
        *(
            ["--cores", "4", "--rps", bad, "--hold-ms", "5"]
            for bad in ("0", "-3", "nan", "inf", "1e300", "x")
        ),
        *(["--cores", "4", "--headroom", bad] for bad in ("0", "1.01", "nan", "75%")),
        ["--rps", "10"],
        ["--hold-ms", "10"],
        ["--idle-ms", "1", "--cores", "1"],
        ["--rps", "1", "--hold-ms", "10", "--idle-ms", "10"],
        ["--replicas", "3"],
        ["--cores", "1", "--max-connections", "3", "--reserved", "3"],
        ["--cores", "1", "--max-connections", "4", "--headroom", "0.5"],
        ["--cores", "1", "--max-connections", "10", "--share", "0.01"],
        ["--cores", "1", "--replicas", "10000", "--workers", "1000"],
        ["--cores", "1", "--borrows", "2"],
        ["--cores", "1", "--seconds", "3"],
        ["--from", "http://127.0.0.1:1", "--seconds", "soon"],
        ["--from", "http://127.0.0.1:1", "--cores", "x"],
        ["--json"],
        ["--env"],
        ["--cores", "\x1b[31m\n1"],
    ],
    ids=lambda words: " ".join(words)[:40].encode("unicode_escape").decode(),
)
def test_what_cannot_be_is_one_readable_line(given: list[str]) -> None:
    ended = CliRunner().invoke(cli, ["sizing", *given])
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert len(ended.stderr) < 200
    assert ended.stderr.rstrip("\n").isprintable()


def test_each_fault_has_its_line() -> None:
    ended = CliRunner().invoke(cli, ["sizing", "--cores", "0", "--rps", "x", "--hold-ms", "1"])
    assert ended.exit_code == 2
    assert ended.stderr.splitlines() == [
        "--cores=0: must be a whole number from 1 to 4096",
        "--rps=x: must be a number from 0.001 to 10000000",
    ]


def test_a_load_that_is_too_much_is_exit_code_1_and_says_what_has_to_change() -> None:
    ended = CliRunner().invoke(cli, ["sizing", "--cores", "2", "--rps", "1000", "--hold-ms", "50"])
    assert ended.exit_code == 1
    assert "TOO MUCH: 50 in use" in ended.stdout
    assert "the hold time must go below 5 ms, or the load below 100 a second" in ended.stdout
