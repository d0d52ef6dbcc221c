"""The report: what the results say, and nothing else."""

import json
import shutil
from pathlib import Path

import pytest

from bench import readme
from bench.rounds import bounded


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pages and the results, elsewhere."""
    for page in (*readme.PAGES, "bench/README.md"):
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(readme.ROOT / page, tmp_path / page)
    shutil.copytree(readme.ROOT / "bench/results", tmp_path / "bench/results")
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    return tmp_path


def test_a_page_that_says_anything_else_than_the_results_is_named(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert readme.main(["--check"]) == 0
    results = copy / "bench/results/http.json"
    answer = json.loads(results.read_text(encoding="utf-8"))
    answer["rows"][0]["read_us"] = 12345.0
    results.write_text(json.dumps(answer), encoding="utf-8")
    assert readme.main(["--check"]) == 1
    assert capsys.readouterr().err.startswith("README.md, docs/benchmarks.md: ")
    assert readme.main([]) == 0
    assert "| 12345 |" in (copy / "docs/benchmarks.md").read_text(encoding="utf-8")
    assert readme.main(["--check"]) == 0


def test_a_missed_target_is_shown_with_what_it_missed(copy: Path) -> None:
    results = copy / "bench/results/overload.json"
    answer = json.loads(results.read_text(encoding="utf-8"))
    answer["targets"][0] |= {"met": False, "value": 0.5}
    results.write_text(json.dumps(answer), encoding="utf-8")
    readme.main([])
    missed = f'Missed: "{answer["targets"][0]["promise"]}"'
    assert missed in (copy / "docs/benchmarks.md").read_text(encoding="utf-8")


def test_no_round_is_begun_that_would_end_too_late() -> None:
    """On a clock that says when each round begins and ends."""
    clock = iter((0, 0, 20, 20, 50, 50, 80, 80)).__next__
    assert list(bounded(10, 100, clock=clock)) == [0, 1, 2], "a fourth would end after 110 s"
    clock = iter((0, 0, 50, 50)).__next__
    assert list(bounded(3, 1, clock=clock)) == [0], "the first one always"
