"""What a table of the report is: every cell a string, its unit in the heading or in itself."""

from dataclasses import dataclass

from markupsafe import Markup

from polycycle.languages import is_right_to_left, language_name
from polycycle.report.wording import own_name


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """Rows under one heading, and perhaps their average."""

    title: str
    rows: tuple[tuple[str, ...], ...]
    average: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Headings as (name, unit), and the rows; the first column names the row."""

    headings: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]


def language_cell(tag: str) -> Markup:
    """English name, then the language's own name in its own direction, then the tag."""
    direction = "rtl" if is_right_to_left(tag) else "ltr"
    own = own_name(tag)
    name = Markup("<b>{}</b>").format(language_name(tag))
    if own:
        name += Markup(' <span class="own" lang="{}" dir="{}">{}</span>').format(
            tag, direction, own
        )
    return name + Markup(" <code>{}</code>").format(tag)
