"""COMET, by its own command in its own environment.

The `unbabel-comet` package asks for transformers below 5 and numpy below 2, so it cannot be
installed beside polycycle.
"""

import re
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from polycycle.errors import PolycycleError
from polycycle.evaluation.harness import Answer

_SCORE = re.compile(r"score:\s*(-?[0-9.]+)")


def comet_score(answers: Sequence[Answer], command: str) -> float:
    """COMET of translations, times 100 as the papers write it.

    Args:
        answers: sources, translations, references.
        command: how to call `comet-score`, options included:
            `/envs/comet/bin/comet-score --model Unbabel/wmt22-comet-da`.

    Raises:
        PolycycleError: the command is missing, fails, or prints no score.
    """
    texts = {
        "s": [answer.source for answer in answers],
        "t": [answer.written for answer in answers],
        "r": [answer.right for answer in answers],
    }
    with tempfile.TemporaryDirectory() as folder:
        files = {option: Path(folder) / f"{option}.txt" for option in texts}
        for option, lines in texts.items():
            # One line a text, an empty translation included.
            one_line = (" ".join(line.split()) + "\n" for line in lines)
            files[option].write_text("".join(one_line), encoding="utf-8")
        places = [part for option, file in files.items() for part in (f"-{option}", str(file))]
        typed = [*shlex.split(command), *places, "--quiet", "--only_system"]
        try:
            done = subprocess.run(typed, capture_output=True, text=True, check=False)
        except OSError as error:
            raise PolycycleError(
                f"--comet {command}: cannot be run ({error}). COMET lives in an environment of its "
                "own: python -m venv comet && comet/bin/pip install unbabel-comet, then "
                "--comet comet/bin/comet-score"
            ) from error
    scores = _SCORE.findall(done.stdout)
    if done.returncode or not scores:
        raise PolycycleError(
            f"--comet {command}: ended with {done.returncode} and no score; it said: "
            f"{(done.stderr or done.stdout).strip()[-500:]}"
        )
    return 100 * float(scores[-1])
