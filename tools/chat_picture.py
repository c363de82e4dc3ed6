"""Makes docs/images/chat_routing.svg: which experts a small model's tokens used.

python tools/chat_picture.py                 # trains the model first, a minute on two cores
python tools/chat_picture.py --model FOLDER  # takes one
"""

import argparse
import re
import tempfile
from io import StringIO
from pathlib import Path

import yaml
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from polycycle.config import parse_recipe
from polycycle.inference import (
    Conversation,
    Sampling,
    languages_of_groups,
    load_speaker,
    open_model,
    paint_routing,
)
from polycycle.stages import run_recipe, write_demo

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "chat_routing.svg"
PROMPTS = ("Maria lives in", "Η Μαρία ζει", "Maria, Paris'te")
RECIPE = """
base: base
output: run
languages: {original: [en, zh, es], expanded: [el, tr]}
data: {train: "train/{language}.jsonl", valid: "valid/{language}.jsonl"}
experts: {num_experts: 4, top_k: 2}
post_pretrain:
  {tokens: 180_000, batch_size: 16, sequence_length: 128, learning_rate: 2.0e-3, warmup_ratio: 0.05,
   precision: float32, validation_bytes: 2_000}
review:
  {tokens: 60_000, batch_size: 16, sequence_length: 128, learning_rate: 1.5e-2, precision: float32,
   prior_coef: 0.1, replay_documents: 600, expanded_documents: 300, validation_bytes: 2_000}
"""


def train(folder: Path) -> Path:
    """A microworld base that was taught Greek and Turkish in haste."""
    write_demo(folder, seed=0, tell=print, siblings=())
    settings = yaml.safe_load(RECIPE)
    settings |= {"base": str(folder / "base"), "output": str(folder / "run")}
    settings["data"]["root"] = str(folder / "world")
    run_recipe(parse_recipe(settings), print)
    return folder / "run" / "review"


def picture(model: Path) -> str:
    """The answers to PROMPTS as SVG, with the fonts that the reader has."""
    console = Console(
        record=True, width=96, force_terminal=True, color_system="truecolor", file=StringIO()
    )
    speaker = load_speaker(open_model(model))
    for prompt in PROMPTS:
        talk = Conversation(
            speaker, Sampling(max_new_tokens=28), with_template=False, with_trace=True
        )
        trace = talk.answer(prompt).trace
        assert trace is not None
        console.print(Text(f"> {prompt}", "bold"))
        console.print(paint_routing(trace, languages_of_groups(speaker.checkpoint)), "")
    # Nothing is fetched from elsewhere.
    form = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    return console.export_svg(
        title="polycycle chat --show-routing", code_format=form, unique_id="chat"
    )


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="an upcycled microworld model")
    given = parser.parse_args().model
    with tempfile.TemporaryDirectory() as folder:
        svg = picture(given or train(Path(folder)))
    PICTURE.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
