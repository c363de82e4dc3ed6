"""Makes docs/images/chat_routing.svg: which experts a small model's tokens used.

make demo && python tools/chat_picture.py
"""

import argparse
import re
from io import StringIO
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from polycycle.inference import (
    Conversation,
    Sampling,
    languages_of_groups,
    load_speaker,
    open_model,
    paint_routing,
)

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "chat_routing.svg"
PROMPTS = ("Paul lives in", "Ο Φέλιξ τρώει", "Komşumuz Paul her gün")
DEMO = Path("polycycle-demo/run/review")


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
    parser.add_argument(
        "--model", type=Path, default=DEMO, help="an upcycled microworld model; the demo's"
    )
    svg = picture(parser.parse_args().model)
    PICTURE.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
