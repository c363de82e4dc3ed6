"""Files that appear only when they are whole."""

import pytest

from polycycle.errors import ConfigError
from polycycle.files import make_folder, write_text


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_beside_it(tmp_path):
    file = tmp_path / "scores.json"
    write_text(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "\ud800")  # half of a character
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_is_made_unless_something_else_stands_there(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    for place in ("file", "file/below"):
        with pytest.raises(ConfigError, match=f"output: .*{place} cannot be a folder to write in"):
            make_folder(tmp_path / place)
