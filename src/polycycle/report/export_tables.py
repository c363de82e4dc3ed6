"""Tables of an export: how its logits and text compare with the model's."""

from polycycle.languages import language_name
from polycycle.report.tables import Section, Table
from polycycle.report.wording import count, percent
from polycycle.results import ExportedLanguage, ExportResult


def export_languages_table(export: ExportResult) -> Table:
    """How an export's logits and text compare with the model's, by language."""
    headings = (
        ("Text", ""),
        ("Tokens", ""),
        ("Largest difference", "of the largest logit"),
        ("Mean KL", "nats"),
        ("Same best token", "%"),
        ("Same greedy text", ""),
    )
    rows = tuple(export_row(label, found) for label, found in export.languages.items())
    return Table(headings=headings, sections=(Section(title="", rows=rows),))


def export_row(label: str, found: ExportedLanguage) -> tuple[str, ...]:
    """How an export compares on one language's text: six cells."""
    is_text = label.isascii() and " " not in label
    return (
        f"{language_name(label)} ({label})" if is_text else label,
        count(found.tokens),
        "none" if found.is_bit_equal else f"{found.largest_difference:.1e}",
        "0" if found.is_bit_equal else f"{found.mean_kl:.1e}",
        percent(found.argmax_agreement),
        f"{found.same_greedy} of {found.texts}",
    )
