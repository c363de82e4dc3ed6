"""How the report writes numbers, with their units, and languages, in their own script."""

import math
from collections.abc import Sequence

from polycycle.config import BASELINES
from polycycle.languages import language_name

MISSING = "—"

OWN_NAMES = {
    "ar": "العربية",
    "bn": "বাংলা",
    "cs": "čeština",
    "de": "Deutsch",
    "el": "Ελληνικά",
    "es": "español",
    "fa": "فارسی",
    "fi": "suomi",
    "fr": "français",
    "he": "עברית",
    "hi": "हिन्दी",
    "hu": "magyar",
    "id": "bahasa Indonesia",
    "it": "italiano",
    "ja": "日本語",
    "ko": "한국어",
    "ne": "नेपाली",
    "nl": "Nederlands",
    "pl": "polski",
    "pt": "português",
    "ro": "română",
    "ru": "русский",
    "sv": "svenska",
    "sw": "Kiswahili",
    "ta": "தமிழ்",
    "te": "తెలుగు",
    "th": "ไทย",
    "tr": "Türkçe",
    "uk": "українська",
    "ur": "اردو",
    "vi": "Tiếng Việt",
    "zh": "中文",
}
"""What the speakers call their language."""


def own_name(tag: str) -> str:
    """The language's name in itself, or an empty string when we do not know it."""
    return OWN_NAMES.get(tag.split("-")[0], "")


def model_title(name: str) -> str:
    """`post-pretrain` as a column heading: `Post-pretrain`; a baseline by its method's name.

    `post` and `post-2` are the post-trained siblings of the base.
    """
    if name == "post" or name.removeprefix("post-").isdigit():
        return "Sibling" + name.removeprefix("post").replace("-", " ")
    return dict(BASELINES.values()).get(name) or name[:1].upper() + name[1:]


def decimal(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    """`1.86`, or `+1.86` with a sign; infinities and not-a-number by their names."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(value, "not a number")
    if round(value, digits) == 0:
        value = 0.0
    return f"{value:{'+' if sign and value else ''},.{digits}f}".replace("-", "−")


def percent(share: float | None, digits: int = 1, *, sign: bool = False) -> str:
    """A share of 0 to 1 as `71.3%`, or a change as `+1.2%` with a sign."""
    if share is None or not math.isfinite(share):
        return decimal(share)
    return decimal(100 * share, digits, sign=sign) + "%"


def count(value: int | None) -> str:
    """`231,406`."""
    return MISSING if value is None else f"{value:,}"


def short_count(value: float) -> str:
    """`131.1 M`, three to four digits and a letter; small numbers as they are."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.{0 if abs(value) / size >= 1000 else 1}f} {letter}"
    return f"{value:g}"


def bytes_size(value: int) -> str:
    """`20.0 GiB`."""
    size, unit = float(value), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} B" if unit == "B" else f"{size:,.1f} {unit}"


def duration(seconds: float) -> str:
    """`43 min 38 s`: the two largest units that matter."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def flops(value: float | None) -> str:
    """`8.26e17`: an estimate, so three digits."""
    return MISSING if value is None else f"{value:.2e}".replace("e+", "e")


def names(tags: Sequence[str]) -> str:
    """`Greek, Hungarian and Turkish`; more than six languages are counted instead."""
    if len(tags) > 6:
        return f"{len(tags)} languages"
    words = [language_name(tag) for tag in tags]
    if len(words) < 2:
        return "".join(words)
    return ", ".join(words[:-1]) + " and " + words[-1]
