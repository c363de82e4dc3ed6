"""A comparison as one HTML page that needs nothing else."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import quote

import yaml
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from polycycle.comparison.comparing import QUALITIES, Comparison, Row
from polycycle.comparison.figures import Figures
from polycycle.comparison.wording import (
    ANSWER_KINDS,
    COST_HEADINGS,
    HEADINGS,
    LEGEND,
    MANY,
    answer_heading,
    costs,
    numbered,
    quality,
    seeds_words,
    sentences,
    speed_headings,
    speed_note,
    speeds,
    unit_of_gain,
)
from polycycle.languages import language_name
from polycycle.report.figures import Figure
from polycycle.report.points import Point, scatter
from polycycle.report.tables import Section, Table, language_cell
from polycycle.report.wording import MISSING, decimal, percent

_TEMPLATES = Environment(
    loader=ChoiceLoader(
        [PackageLoader("polycycle.comparison", ""), PackageLoader("polycycle.report", "")]
    ),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def comparison_page(comparison: Comparison, *, is_linked: bool = True) -> str:
    """The whole page as HTML. Everything that comes from study and results is escaped.

    Args:
        comparison: what it shows.
        is_linked: link each run's folder; without it a page stands apart from its runs and names
            them alone.
    """
    style, _, _ = _TEMPLATES.loader.get_source(_TEMPLATES, "style.css")  # type: ignore[union-attr]
    return _TEMPLATES.get_template("comparison.html").render(
        study=comparison.study,
        style=Markup(style),
        ground=comparison.ground,
        sentences=sentences(comparison),
        legend=LEGEND,
        many=MANY,
        languages=_languages(comparison),
        saved=_saved(comparison),
        speeds=_speeds(comparison),
        speed_note=speed_note(comparison.speeds) if comparison.speeds else "",
        answers=comparison.answers,
        by_language=_by_language(comparison),
        qualities=quality_table(comparison),
        costs=_costs(comparison),
        alike=_alike(comparison),
        quality_plots=quality_figures(comparison),
        cost_plots=_plots(comparison, _COST_AXES, "Top left is best."),
        cells=_cells(comparison, is_linked=is_linked),
        failed=[one for one in comparison.outcomes if one.status == "failed"],
        recipe=yaml.safe_dump(
            comparison.study.model_dump(mode="json", exclude_unset=True),
            sort_keys=False,
            allow_unicode=True,
        ),
    )


def quality_table(comparison: Comparison) -> Table:
    """What every variant gained, kept and answered, numbered as in the plots."""
    keys = [*QUALITIES, *(one.key for one in comparison.answers)]
    headings = [(HEADINGS[key], "") for key in QUALITIES]
    headings[0] = (HEADINGS["gain"], unit_of_gain(comparison.measure))
    headings += [(answer_heading(one), one.task) for one in comparison.answers]

    def cells(row: Row) -> list[str]:
        experts = " ".join(map(str, row.num_experts)) if row.num_experts else MISSING
        figures = [quality(row, key, comparison.measure) for key in keys]
        return [*figures, experts, seeds_words(row)]

    return _by_variant(comparison, [*headings, ("Experts", "per layer"), ("Seeds", "")], cells)


def _by_variant(
    comparison: Comparison,
    headings: Iterable[tuple[str, str]],
    cells: Callable[[Row], Iterable[str]],
) -> Table:
    """A row for each variant, numbered as in the plots."""
    rows = tuple((title, *cells(row)) for title, row in numbered(comparison))
    return Table(headings=(("Variant", ""), *headings), sections=(Section(title="", rows=rows),))


def _saved(comparison: Comparison) -> Table | None:
    """Share of the base's bits per byte that is no longer needed; None where none were counted."""
    keys = comparison.saved
    headings = [(key.split("/", 1)[1], "") for key in keys]

    def cells(row: Row) -> list[str]:
        return [quality(row, key, comparison.measure) for key in keys]

    return _by_variant(comparison, headings, cells) if keys else None


def _languages(comparison: Comparison) -> Table | None:
    """Every language, in one column per variant; None where there is but one of each kind."""
    if len(comparison.languages) < 3:
        return None
    unit = unit_of_gain(comparison.measure)
    sections = []
    for kind, title in (("gain", f"Gained, {unit}"), ("kept", "Kept")):
        keys = [key for key in comparison.languages if key.startswith(f"{kind}/")]
        rows = tuple(
            (
                language_cell(key.split("/", 1)[1]),
                *(quality(row, key, comparison.measure) for row in comparison.rows),
            )
            for key in keys
        )
        if rows:
            sections.append(Section(title=title, rows=rows))
    variants = [(str(number), row.title) for number, row in enumerate(comparison.rows, start=1)]
    return Table(headings=(("Language", ""), *variants), sections=tuple(sections))


def _by_language(comparison: Comparison) -> Table | None:
    """Right answers, and those in form, of every task and language; None without tasks."""
    columns = comparison.answers_by_language
    if not columns:
        return None
    languages = tuple(dict.fromkeys(column.group for column in columns))
    sections = [
        Section(
            title=task,
            rows=tuple(
                (title, *(_answers_in(comparison, row, task, tag) for tag in languages))
                for title, row in numbered(comparison)
            ),
        )
        for task in dict.fromkeys(column.task for column in columns)
    ]
    headings = [(language_name(tag), tag) for tag in languages]
    return Table(headings=(("Variant", ""), *headings), sections=tuple(sections))


def _answers_in(comparison: Comparison, row: Row, task: str, language: str) -> str:
    shown = [
        quality(row, one.key, comparison.measure)
        for one in comparison.answers_by_language
        if (one.task, one.group) == (task, language) and one.key in row.figures
    ]
    return " / ".join(shown) or MISSING


def _costs(comparison: Comparison) -> Table:
    return _by_variant(comparison, COST_HEADINGS, costs)


def _speeds(comparison: Comparison) -> Table | None:
    """Reading and writing; None where no cell was measured."""
    if not comparison.speeds:
        return None
    speed = comparison.speeds[0]
    return _by_variant(comparison, speed_headings(speed), lambda row: speeds(row, speed))


_Axis = tuple[str, str, str, float]  # title of the plot, figure, title of the axis, factor
_QUALITY_AXES: tuple[_Axis, ...] = (
    ("Gain against what is kept", "kept", "Original languages kept, %", 100.0),
    ("Gain against what is kept unseen", "kept_unseen", "Unseen originals kept, %", 100.0),
)
_COST_AXES: tuple[_Axis, ...] = (
    ("Gain against training", "training_flops", "Training operations, 10¹² FLOPs", 1e-12),
    ("Gain against size", "parameters_total", "Parameters in all, millions", 1e-6),
)
_SAME_COST = 0.02


def quality_figures(comparison: Comparison) -> list[Figure]:
    """Gain against each thing that is to be high, too; none that fewer than two variants have."""
    return _plots(comparison, _quality_axes(comparison), "Top right is best.")


def _quality_axes(comparison: Comparison) -> tuple[_Axis, ...]:
    """What is kept, and right answers to tasks in the languages to learn."""
    answers = [
        (
            f"Gain against {one.task}" + (", in letters" if one.what == "chrf" else ""),
            one.key,
            f"{one.task}: {ANSWER_KINDS[one.what]}, {one.group.lower()}, "
            + ("of 100" if one.what == "chrf" else "%"),
            100.0,
        )
        for one in comparison.answers
        if one.what != "in_form"
        and "original" not in one.group.lower()
        and any(one.key in row.figures and row.figures[one.key].mean for row in comparison.rows)
    ]
    return (*_QUALITY_AXES, *answers)


def _plots(comparison: Comparison, axes: tuple[_Axis, ...], best: str) -> list[Figure]:
    """Gain over each axis on which variants differ at all."""
    gained = f"Gain on languages to learn, {unit_of_gain(comparison.measure)}"
    figures = []
    for title, key, x_title, factor in axes:
        points = _points(comparison, key, factor)
        if len(points) > 1 and not (axes is _COST_AXES and _cost_the_same(points)):
            note = (
                f"{best} Numbers as in the table, moved apart where they would cover each other; "
                "whiskers are ± one standard deviation."
            )
            plot = scatter(points, x_title=x_title, y_title=gained, label=title)
            figures.append(Figure(title=title, note=note, plot=plot))
    return figures


def _alike(comparison: Comparison) -> list[str]:
    """Which plots of costs are not drawn, since all points would lie above each other."""
    found = []
    for title, key, x_title, factor in _COST_AXES:
        points = _points(comparison, key, factor)
        if len(points) > 1 and _cost_the_same(points):
            what = x_title.split(",")[0].lower()
            found.append(f"{title} is not drawn: {what} differ by less than {_SAME_COST:.0%}.")
    return found


def _cost_the_same(points: list[Point]) -> bool:
    places = [point.x for point in points]
    return max(places) < (1 + _SAME_COST) * min(places)


def _points(comparison: Comparison, key: str, factor: float) -> list[Point]:
    return [
        Point(
            number=number,
            title=row.title,
            x=factor * row.figures[key].mean,
            y=row.figures["gain"].mean,
            x_deviation=factor * (row.figures[key].deviation or 0.0),
            y_deviation=row.figures["gain"].deviation or 0.0,
            is_reference=row.cell == comparison.reference,
        )
        for number, row in enumerate(comparison.rows, start=1)
        if key in row.figures and "gain" in row.figures
    ]


def _cells(comparison: Comparison, *, is_linked: bool) -> Table:
    """Every run with its own numbers and its folder."""
    shown: dict[str, Callable[[float], str]] = {
        "gain": lambda value: decimal(value, 1 if comparison.measure == "accuracy" else 3),
        "kept": percent,
        "kept_unseen": percent,
        **{column.key: percent for column in comparison.answers},
    }
    rows = []
    for one in comparison.outcomes:
        numbers = (_shown(one.figures, key, write) for key, write in shown.items())
        folder = Path(one.folder)
        where = _links(folder, comparison.study.output) if is_linked else os.fspath(folder)
        rows.append((one.cell, str(one.seed), one.status, *numbers, where))
    return Table(
        headings=(
            ("Cell", ""),
            ("Seed", ""),
            ("State", ""),
            *((HEADINGS[key], "") for key in QUALITIES),
            *((answer_heading(column), column.task) for column in comparison.answers),
            ("Folder", ""),
        ),
        sections=(Section(title="", rows=tuple(rows)),),
    )


def _links(folder: Path, page_folder: Path) -> Markup:
    """The run's folder, and what in and beside it says where its numbers are from."""
    files = {
        "report": folder / "report" / "report.html",
        "numbers": folder / "result.json",
        "recipe": folder.parent / f"{folder.name}.yaml",
        "log": folder.parent / f"{folder.name}.log",
    }
    words = [_link(os.fspath(folder), folder, page_folder)]
    words += [_link(name, file, page_folder) for name, file in files.items() if file.is_file()]
    return Markup(" ").join(words)


def _link(words: str, target: Path, page_folder: Path) -> Markup:
    """Relative, so that the study's folder can be moved or sent as a whole."""
    address = quote(Path(os.path.relpath(target, page_folder)).as_posix())
    return Markup('<a href="{}">{}</a>').format(address, words)


def _shown(figures: Figures | None, key: str, write: Callable[[float], str]) -> str:
    value = None if figures is None else figures.get(key)
    return MISSING if value is None else write(value)
