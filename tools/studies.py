"""Puts what studies measured into docs/studies.md, with its plots and pages.

docs/images/studies/NAME.svg and benchmarks/studies/NAME.html are drawn from NAME.json.

mkdir -p benchmarks/studies && cp runs/freezing/comparison.json benchmarks/studies/freezing.json
python -m tools.studies              # write the page and the plots (= make docs-studies)
python -m tools.studies --check      # say which would change, and end with code 1 if any would

A result is called after its recipe in recipes/studies. On the page, its place is between
`<!-- measured: NAME -->` and `<!-- end -->`; all else is written by hand.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from polycycle.comparison import (
    LEGEND,
    Comparison,
    comparison_page,
    quality_figures,
    quality_table,
    read_comparison,
    sentences,
)
from polycycle.config import load_study
from tools.generated import write_or_check

ROOT = Path(__file__).parents[1]
PAGE = Path("docs", "studies.md")
PICTURES = Path("docs", "images", "studies")
RESULTS = Path("benchmarks", "studies")
RECIPES = Path("recipes", "studies")
NOT_RUN = "Not run yet."
PLACE = re.compile(r"(<!-- measured: ([\w.-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
# The colours of report/style.css on white, whatever page the picture stands on.
STYLE = """\
rect { fill: #ffffff; stroke: #d0d7de }
text { font: 12.5px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif }
text { fill: #17191d } .tick { fill: #5d6470; font-size: 11.5px }
.grid { stroke: #e2e5ea } .whisker { stroke: #c44e00; opacity: .55 } .leader { stroke: #5d6470 }
circle { fill: #c44e00 } circle.reference { fill: #17191d }
circle.place { fill: #5d6470; stroke: #ffffff }
.point text { fill: #ffffff; font-weight: 600 }
"""
_MARGIN = 14


def results(root: Path) -> dict[str, Comparison]:
    """Every committed result by the name of its recipe."""
    found = {path.stem: read_comparison(path) for path in sorted((root / RESULTS).glob("*.json"))}
    for name, comparison in found.items():
        asked = load_study(root / RECIPES / f"{name}.yaml").name
        if comparison.study.name != asked:
            sys.exit(f"{RESULTS / name}.json is of {comparison.study.name!r}, not of {asked!r}")
        study = comparison.study
        folders = [one.folder for one in comparison.outcomes]
        named = (Path(place) for place in (study.output, study.recipe, *folders))
        if absolute := next((place for place in named if place.is_absolute()), None):
            sys.exit(
                f"{RESULTS / name}.json names {absolute}, a place on your machine; run `polycycle "
                f"compare {RECIPES / name}.yaml` in the project's folder, without --out"
            )
    return found


def files(root: Path) -> dict[Path, str]:
    """What page, plots and the page of each result are to hold, by path below `root`."""
    found = results(root)
    drawn = {name: picture(comparison) for name, comparison in found.items()}
    pictures = {PICTURES / f"{name}.svg": svg for name, svg in drawn.items() if svg}
    pages = {
        RESULTS / f"{name}.html": comparison_page(comparison, is_linked=False)
        for name, comparison in found.items()
    }
    page = (root / PAGE).read_text(encoding="utf-8")
    return {PAGE: filled(page, found), **pictures, **pages}


def filled(page: str, found: Mapping[str, Comparison]) -> str:
    """The page with every result in its place, and places without one marked so."""
    places = {match.group(2) for match in PLACE.finditer(page)}
    for name in sorted(set(found) - places):
        sys.exit(f"{PAGE} has no place for {name}; add <!-- measured: {name} --> and <!-- end -->")

    def fill(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        words = measured(name, found[name]) if name in found else NOT_RUN
        return f"{begin}\n{words}\n\n{end}"

    return PLACE.sub(fill, page)


def measured(name: str, comparison: Comparison) -> str:
    """Plot, table and what it says, as Markdown."""
    table = quality_table(comparison)
    titles = [f"{title} ({unit})" if unit else title for title, unit in table.headings]
    rows = [titles, ["---"] * len(titles), *table.sections[0].rows]
    figures = quality_figures(comparison)[:1]
    parts = [
        *(f"![{one.title}](images/studies/{name}.svg)" for one in figures),
        *(f"{one.title}. {one.note}" for one in figures),
        "\n".join(f"| {' | '.join(map(plain, row))} |" for row in rows),
        plain(" ".join(sentences(comparison))),
        f"{LEGEND} All numbers: [{name}.json](../{(RESULTS / name).as_posix()}.json), and as a "
        f"page, {(RESULTS / name).as_posix()}.html.",
    ]
    return "\n\n".join(parts)


def plain(words: str) -> str:
    """Words that neither end the cell they stand in nor are taken for HTML."""
    return words.replace("|", "/").replace("<", "&lt;")


def picture(comparison: Comparison) -> str | None:
    """Gain against what is kept, as a picture that needs no style sheet; None of one variant."""
    figures = quality_figures(comparison)
    if not figures:
        return None
    opening, rest = str(figures[0].plot).split(">", 1)
    ((was, *size),) = re.findall(r'(viewBox="0 0 (\S+) (\S+)")', opening)
    width, height = (float(side) + 2 * _MARGIN for side in size)
    opening = opening.replace(was, f'viewBox="{-_MARGIN} {-_MARGIN} {width:g} {height:g}"')
    opening = opening.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ')
    corner, inside = 1 - _MARGIN, f'width="{width - 2:g}" height="{height - 2:g}"'
    card = f'<rect x="{corner}" y="{corner}" {inside} rx="10"/>'
    return f"{opening}>\n<style>\n{STYLE}</style>\n{card}{rest}\n"


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Write, or check, and say what happened."""
    return write_or_check(
        files(root),
        root,
        is_check="--check" in arguments,
        made_from=RESULTS.as_posix(),
        command="make docs-studies",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
