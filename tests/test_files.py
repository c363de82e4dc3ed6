"""Files that appear only when they are whole."""

import pytest

from polycycle.files import write_text


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_beside_it(tmp_path):
    file = tmp_path / "scores.json"
    write_text(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "\ud800")  # half of a character
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
