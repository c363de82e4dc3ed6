"""Several cells at once: what they share is made once, and one failure stops nothing else."""

import subprocess
import threading
from types import SimpleNamespace

import pytest

from polycycle.comparison import plan_cells, running
from polycycle.config import load_study
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

    def fake(cell, threads):
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

    def fake(cell, threads):
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


def test_an_error_of_our_own_stops_what_has_not_begun(asked, monkeypatch):
    begun = []

    def fake(cell, threads):
        begun.append(cell.name)
        raise OSError("no space left on device")

    monkeypatch.setattr(running, "_run", fake)
    with pytest.raises(OSError, match="no space"):
        run(asked, jobs=2)
    assert len(begun) < len(CELLS)
    assert not set(ALIKE[1:]) & set(begun)


@pytest.mark.parametrize(
    ("jobs", "set_already", "expected"), [(1, None, None), (3, None, "4"), (3, "7", "7")]
)
def test_cells_at_once_share_the_processors(asked, monkeypatch, jobs, set_already, expected):
    found = []

    def fake(command, *, env, **_):
        found.append(env.get("OMP_NUM_THREADS"))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", fake)
    monkeypatch.setattr(running, "num_processors", lambda: 12)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if set_already:
        monkeypatch.setenv("OMP_NUM_THREADS", set_already)
    run(asked, jobs)
    assert found == [expected] * len(CELLS)
