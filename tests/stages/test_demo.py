"""What the demo starts from."""

import pytest

from polycycle.errors import ConfigError
from polycycle.stages import demo, write_demo


@pytest.fixture
def small(monkeypatch):
    """Few documents, and the base is a folder."""
    for name in ("_REPLAYED", "_UNSEEN", "_EXPANDED"):
        monkeypatch.setattr(demo, name, 3)
    monkeypatch.setattr(demo, "copy_base", lambda folder: folder.mkdir())


def texts(folder):
    return {file: file.read_bytes() for file in (folder / "world").rglob("*.jsonl")}


def test_a_language_that_comes_later_is_added_to_the_texts_and_those_there_stay(small, tmp_path):
    notes = []
    how = {"seed": 1, "tell": notes.append, "unseen": (), "siblings": ()}
    write_demo(tmp_path / "grown", expanded=["el"], **how)
    kept = tmp_path / "grown" / "world" / "train" / "el.jsonl"
    kept.write_text(kept.read_text("utf-8") + "{}\n", "utf-8")
    before = texts(tmp_path / "grown")
    write_demo(tmp_path / "grown", expanded=["ru"], **how)
    assert notes[-1].endswith("world: ru")
    after = texts(tmp_path / "grown")
    assert {file: after[file] for file in before} == before
    write_demo(tmp_path / "at-once", expanded=["ru"], **how)
    wanted = {
        f.relative_to(tmp_path / "at-once"): text for f, text in texts(tmp_path / "at-once").items()
    }
    found = {f.relative_to(tmp_path / "grown"): text for f, text in after.items()}
    assert {place: found[place] for place in wanted} == wanted
    assert sorted(path.name for path in (tmp_path / "grown").iterdir()) == [
        "base",
        "recipe.yaml",
        "world",
    ]


def test_another_seed_is_refused_where_texts_of_one_are_there(small, tmp_path):
    how = {"tell": lambda note: None, "expanded": ["el"], "siblings": ()}
    write_demo(tmp_path, seed=0, **how)
    before = texts(tmp_path)
    with pytest.raises(ConfigError, match=r"of seed 0, not of seed 1\. Type --seed 0 .*--out"):
        write_demo(tmp_path, seed=1, **how)
    assert texts(tmp_path) == before
    write_demo(tmp_path, seed=0, **how)
    (tmp_path / "world" / "microworld.json").unlink()  # as earlier versions left it
    write_demo(tmp_path, seed=1, **how)
    assert texts(tmp_path) == before


def test_a_language_that_the_microworld_does_not_have_is_refused(small, tmp_path):
    with pytest.raises(ConfigError, match=r"no de; it has en, .*text of your own"):
        write_demo(tmp_path, seed=0, tell=lambda note: None, expanded=["el", "de"])
    assert not (tmp_path / "world").exists()
