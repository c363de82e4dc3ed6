"""COMET by its own command."""

import stat
import sys

import pytest

from polycycle.errors import PolycycleError
from polycycle.evaluation import comet_score
from polycycle.evaluation.harness import Answer

ANSWERS = [
    Answer(source="bread", written="ψωμί", right="ψωμί"),
    Answer(source="fish", written="", right="ψάρι"),
]
# Scores the share of lines of -t that are those of -r, as comet-score prints it.
FAKE = f"""#!{sys.executable}
import sys
from pathlib import Path
at = {{key: Path(value) for key, value in zip(sys.argv, sys.argv[1:]) if key in ("-s", "-t", "-r")}}
lines = {{key: file.read_text("utf-8").split("\\n") for key, file in at.items()}}
assert len(lines["-s"]) == len(lines["-t"]) == len(lines["-r"]) == 3, lines
assert sys.argv[1:3] == ["--model", "some/model"], sys.argv
same = sum(a == b for a, b in zip(lines["-t"][:-1], lines["-r"][:-1]))
print(f"{{at['-t']}}\\tscore: {{same / 2:.4f}}")
"""


def command(folder, text):
    file = folder / "comet-score"
    file.write_text(text)
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return f"{file} --model some/model"


def test_the_command_gets_sources_translations_and_references_line_by_line(tmp_path):
    assert comet_score(ANSWERS, command(tmp_path, FAKE)) == 50.0


def test_a_command_that_is_missing_or_fails_is_an_error_that_says_what_it_said(tmp_path):
    with pytest.raises(PolycycleError, match="pip install unbabel-comet"):
        comet_score(ANSWERS, "no-such-comet-score")
    failing = f"#!{sys.executable}\nimport sys; sys.exit('no such checkpoint')\n"
    with pytest.raises(PolycycleError, match="no such checkpoint"):
        comet_score(ANSWERS, command(tmp_path, failing))
