"""Several cells at once: what they share is made once, and one failure stops nothing else."""

import subprocess
import threading
from types import SimpleNamespace

import pytest

from polycycle.comparison import plan_cells, running
from polycycle.config import load_study
from polycycle.errors import ConfigError
from polycycle.stages import RUNS_AT_ONCE
from polycycle.stages.environment import describe_environment
from tests.config.test_study import study

CELLS = {
    "few": {"experts.num_experts": 2},
    "few-unpriored": {"experts.num_experts": 2, "review.prior_coef": 0},
    "few-gated": {"experts.num_experts": 2, "experts.exact_retention": {}},
    "many": {"experts.num_experts": 6},
    "dense": {"baseline": "full"},
}
ALIKE = ("few", "few-unpriored", "few-gated")


@pytest.fixture
def asked(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "write_demo", lambda home, **given: None)
    settings = {"data.train": "train/{language}.jsonl"}
    return load_study(study(tmp_path, seeds=[0], settings=settings, cells=CELLS))


def run(asked, jobs):
    told = []
    running.run_cells(asked, plan_cells(asked), tell=told.append, jobs=jobs)
    return told


def test_of_cells_that_share_their_training_one_goes_ahead(asked, monkeypatch):
    events, lock = [], threading.Lock()
    together = threading.Barrier(3)

    def fake(cell, at_once):
        with lock:
            events.append(("begins", cell.name))
        if cell.name in ("few", "many", "dense"):
            together.wait(timeout=20)  # passes only if all three run at once
        with lock:
            events.append(("ends", cell.name))
        return 1 if cell.name == "many" else 0

    monkeypatch.setattr(running, "_run", fake)
    told = run(asked, jobs=3)
    assert sorted(name for what, name in events if what == "begins") == sorted(CELLS)
    for name in ALIKE[1:]:
        assert events.index(("begins", name)) > events.index(("ends", "few"))
    assert sum("FAILED" in line for line in told) == 1
    assert sum("done in" in line for line in told) == 4
    (failed,) = [line for line in told if "FAILED" in line]
    assert failed.strip().startswith("many, seed 0: ")  # lines of several cells mix


def test_at_most_so_many_run_at_once(asked, monkeypatch):
    now, most, lock = 0, 0, threading.Lock()

    def fake(cell, at_once):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        threading.Event().wait(0.05)
        with lock:
            now -= 1
        return 0

    monkeypatch.setattr(running, "_run", fake)
    run(asked, jobs=2)
    assert most == 2
    most = 0
    run(asked, jobs=1)
    assert most == 1


def test_cells_wait_for_no_training_that_is_done(asked, monkeypatch):
    (few, *_) = plan_cells(asked)
    few.folder.mkdir(parents=True)
    few.recipe_file.write_text(few.text, encoding="utf-8")
    few.result_file.write_text("{}", encoding="utf-8")
    together = threading.Barrier(2)

    def fake(cell, at_once):
        if cell.name in ALIKE:
            together.wait(timeout=20)  # passes only if the two that are left run at once
        return 0

    monkeypatch.setattr(running, "_run", fake)
    told = run(asked, jobs=2)
    assert told[0].endswith("5 cells, 1 need no run")
    assert sum("done in" in line for line in told) == 4


@pytest.mark.parametrize("error", [OSError("no space left on device"), KeyboardInterrupt()])
def test_what_stops_one_begins_no_other_and_is_said_at_once(asked, monkeypatch, error):
    begun, ended, said = [], threading.Event(), threading.Event()

    def fake(cell, at_once):
        begun.append(cell.name)
        if len(begun) == 1:
            ended.wait(timeout=20)
            return 0
        raise error

    def tell(line):
        if line.startswith("stopping ("):
            said.set()
            ended.set()  # only now may the cell that runs end

    monkeypatch.setattr(running, "_run", fake)
    with pytest.raises(type(error)):
        running.run_cells(asked, plan_cells(asked), tell=tell, jobs=2)
    assert said.is_set()
    assert len(begun) == 2  # of three trainings, and five cells


@pytest.mark.parametrize("jobs", [1, 3])
def test_an_interrupted_cell_has_not_failed(asked, monkeypatch, jobs):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=130))
    told = run(asked, jobs)
    assert sum("interrupted" in line for line in told) == len(CELLS)
    assert not any("FAILED" in line for line in told)
    assert not any(cell.has_failed for cell in plan_cells(asked))


@pytest.mark.parametrize("code", [1, 130])
def test_a_changed_cell_that_does_not_end_has_not_the_result_of_before(asked, monkeypatch, code):
    cells = plan_cells(asked)
    for cell in cells:
        cell.folder.mkdir(parents=True)
        cell.recipe_file.write_text("as it was before", encoding="utf-8")
        cell.result_file.write_text("{}", encoding="utf-8")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=code))
    run(asked, jobs=1)
    assert not any(cell.is_done for cell in cells)
    assert all(cell.has_failed == (code == 1) for cell in cells)


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_cell_whose_texts_cannot_be_written_fails_alone(asked, monkeypatch, jobs):
    def write_demo(home, *, tell, siblings, **given):
        if not calls:
            calls.append(home)
            raise ConfigError("brackets is a sibling of another base")

    calls = []
    monkeypatch.setattr(running, "write_demo", write_demo)
    monkeypatch.setattr(running, "_run", lambda cell, at_once: 0)
    told = run(asked, jobs)
    assert sum("FAILED before it began: brackets is" in line for line in told) == 1
    assert sum("done in" in line for line in told) == len(CELLS) - 1
    failed = [cell for cell in plan_cells(asked) if cell.has_failed]
    assert [cell.name for cell in failed] == ["few"]
    assert failed[0].last_words() == "ConfigError: brackets is a sibling of another base"


def test_fewer_cells_than_jobs_share_all_processors(asked, monkeypatch):
    found = []
    monkeypatch.setattr(running, "_run", lambda cell, at_once: found.append(at_once) or 0)
    running.run_cells(asked, plan_cells(asked)[:2], tell=lambda line: None, jobs=12)
    assert found == [2, 2]
    running.run_cells(asked, plan_cells(asked)[:1], tell=lambda line: None, jobs=12)
    assert found[2:] == [1]


@pytest.mark.parametrize(
    ("jobs", "set_already", "expected"), [(1, None, None), (3, None, "4"), (3, "7", "7")]
)
def test_cells_at_once_share_the_processors(asked, monkeypatch, jobs, set_already, expected):
    found = []

    def fake(command, *, env, **_):
        found.append((env.get("OMP_NUM_THREADS"), env["POLYCYCLE_RUNS_AT_ONCE"]))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", fake)
    monkeypatch.setattr(running, "num_processors", lambda: 12)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if set_already:
        monkeypatch.setenv("OMP_NUM_THREADS", set_already)
    run(asked, jobs)
    assert found == [(expected, str(jobs))] * len(CELLS)


def test_a_run_notes_how_many_went_on_beside_it(monkeypatch):
    monkeypatch.setenv(RUNS_AT_ONCE, "3")
    assert describe_environment("float32").runs_at_once == 3
    monkeypatch.delenv(RUNS_AT_ONCE)
    assert describe_environment("float32").runs_at_once == 1
