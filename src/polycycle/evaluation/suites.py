"""Which benchmarks the papers measured, and what lm-eval calls them in each language."""

from collections.abc import Collection
from dataclasses import dataclass

from polycycle.languages import language_name


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """One benchmark of a suite.

    Attributes:
        name: ours.
        shots: solved examples in front of each.
        metrics: the metric that counts is the first of these that its task measures.
        english: lm-eval's task in English.
        others: patterns of its tasks in other languages, the better first; `{language}` is a
            two-letter tag, `{flores}` FLORES' code of language and script.
    """

    name: str
    shots: int
    metrics: tuple[str, ...]
    english: str
    others: tuple[str, ...]


FLORES = "flores"
FLORES_SHOTS = 8
SUITES: dict[str, tuple[Benchmark, ...]] = {
    # Shots as in the papers' tables; MMLU and Belebele by plain accuracy, as lm-eval's own tables.
    "moe-lpr": (
        Benchmark(
            name="arc_challenge",
            shots=25,
            metrics=("acc_norm", "acc"),
            english="arc_challenge",
            others=("arc_{language}", "arc_challenge_mt_{language}"),
        ),
        Benchmark(
            name="mmlu",
            shots=5,
            metrics=("acc",),
            english="mmlu",
            others=("m_mmlu_{language}", "global_mmlu_full_{language}"),
        ),
        Benchmark(
            name="hellaswag",
            shots=10,
            metrics=("acc_norm", "acc"),
            english="hellaswag",
            others=("hellaswag_{language}",),
        ),
        Benchmark(
            name="belebele",
            shots=5,
            metrics=("acc",),
            english="belebele_eng_Latn",
            others=("belebele_{flores}",),
        ),
    ),
}
"""FLORES belongs to the suite, too; lm-eval has no task for most of its pairs, so it is ours."""

# BCP-47 → the code that FLORES and Belebele use.
_FLORES_CODES = {
    "af": "afr_Latn",
    "am": "amh_Ethi",
    "ar": "arb_Arab",
    "as": "asm_Beng",
    "az": "azj_Latn",
    "bg": "bul_Cyrl",
    "bn": "ben_Beng",
    "bo": "bod_Tibt",
    "ca": "cat_Latn",
    "cs": "ces_Latn",
    "da": "dan_Latn",
    "de": "deu_Latn",
    "el": "ell_Grek",
    "en": "eng_Latn",
    "es": "spa_Latn",
    "et": "est_Latn",
    "eu": "eus_Latn",
    "fa": "pes_Arab",
    "fi": "fin_Latn",
    "fr": "fra_Latn",
    "gu": "guj_Gujr",
    "ha": "hau_Latn",
    "he": "heb_Hebr",
    "hi": "hin_Deva",
    "hr": "hrv_Latn",
    "hu": "hun_Latn",
    "hy": "hye_Armn",
    "id": "ind_Latn",
    "ig": "ibo_Latn",
    "is": "isl_Latn",
    "it": "ita_Latn",
    "ja": "jpn_Jpan",
    "jv": "jav_Latn",
    "ka": "kat_Geor",
    "kk": "kaz_Cyrl",
    "km": "khm_Khmr",
    "kn": "kan_Knda",
    "ko": "kor_Hang",
    "ky": "kir_Cyrl",
    "lo": "lao_Laoo",
    "lt": "lit_Latn",
    "lv": "lvs_Latn",
    "mg": "plt_Latn",
    "mk": "mkd_Cyrl",
    "ml": "mal_Mlym",
    "mn": "khk_Cyrl",
    "mr": "mar_Deva",
    "ms": "zsm_Latn",
    "mt": "mlt_Latn",
    "my": "mya_Mymr",
    "nb": "nob_Latn",
    "ne": "npi_Deva",
    "nl": "nld_Latn",
    "no": "nob_Latn",
    "or": "ory_Orya",
    "pa": "pan_Guru",
    "pl": "pol_Latn",
    "ps": "pbt_Arab",
    "pt": "por_Latn",
    "ro": "ron_Latn",
    "ru": "rus_Cyrl",
    "sd": "snd_Arab",
    "si": "sin_Sinh",
    "sk": "slk_Latn",
    "sl": "slv_Latn",
    "so": "som_Latn",
    "sq": "als_Latn",
    "sr": "srp_Cyrl",
    "su": "sun_Latn",
    "sv": "swe_Latn",
    "sw": "swh_Latn",
    "ta": "tam_Taml",
    "te": "tel_Telu",
    "tg": "tgk_Cyrl",
    "th": "tha_Thai",
    "tl": "tgl_Latn",
    "tr": "tur_Latn",
    "uk": "ukr_Cyrl",
    "ur": "urd_Arab",
    "uz": "uzn_Latn",
    "vi": "vie_Latn",
    "xh": "xho_Latn",
    "yo": "yor_Latn",
    "zh": "zho_Hans",
    "zh-Hans": "zho_Hans",
    "zh-Hant": "zho_Hant",
    "zu": "zul_Latn",
}


def flores_code(tag: str) -> str | None:
    """FLORES' code of a language (`ell_Grek`), or None when we do not know it."""
    return _FLORES_CODES.get(tag) or _FLORES_CODES.get(tag.split("-")[0])


def find_task(benchmark: Benchmark, language: str, known: Collection[str]) -> str | None:
    """The lm-eval task of a benchmark in a language, or None where lm-eval has none.

    Args:
        benchmark: of a suite.
        language: BCP-47 tag. A region is passed over (`pt-BR` is measured by the tasks of `pt`); a
            script is not: there is no `arc_zh` in traditional letters.
        known: the names of lm-eval's tasks.
    """
    if language.split("-")[0] == "en":
        return benchmark.english
    for pattern in benchmark.others:
        name = _filled(pattern, language)
        if name in known:
            return name
    return None


def why_missing(benchmark: Benchmark, language: str, version: str) -> str:
    """Why a benchmark is not measured in a language, and what would help."""
    tried = [name for name in (_filled(p, language) for p in benchmark.others) if name]
    looked = f" (looked for {', '.join(tried)})" if tried else ""
    return (
        f"lm-eval {version} has no {benchmark.name} in {language_name(language)}{looked}; give it "
        f"as files: --task-data DIR with DIR/{benchmark.name}/test/{language}.jsonl"
    )


def _filled(pattern: str, language: str) -> str | None:
    """A task name, or None where the language has no word that the pattern asks for."""
    if "{flores}" in pattern:
        code = flores_code(language)
        return pattern.replace("{flores}", code) if code else None
    primary, *subtags = language.split("-")
    has_script = any(len(subtag) == 4 for subtag in subtags)
    if has_script and language != "zh-Hans":
        return None
    return pattern.replace("{language}", primary)
