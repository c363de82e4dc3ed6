"""Proof that an exported folder computes what the upcycled model computes.

The model runs here; the export runs in a process of its own that has not imported polycycle.

In half precision two programs that compute the same function round differently, and where a
router's choice is nearly a tie another expert answers: on tiny random models up to 4 % of the best
tokens change (docs/lab_log.md). So where the half-precision thresholds are missed, float32 decides:
model and export are run again with the same weights in float32, where they must agree as any
float32 export must, and for nine tokens in ten the export in half precision may be no further from
the model in float32 than twice what the model's own half precision is. Nine in ten, because the few
tokens with another expert make up nearly all of the mean, and which they are is chance.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from polycycle.checkpoint import open_checkpoint
from polycycle.engines import GGUF_FILE
from polycycle.errors import ExportError
from polycycle.export import stock_side
from polycycle.export.records import VERIFICATION_FILE, read_record
from polycycle.files import write_json
from polycycle.modeling import without_retention_gate

RANDOM_IDS = "random token ids"

# What is compared per label: enough tokens for an agreement of 99.5 % to mean something, few enough
# that a vocabulary of 150k fits (texts × tokens × vocabulary × 4 bytes on disk: 0.3 GB).
_TEXTS = 4
_TOKENS = 128
_PROMPT_TOKENS = 16
_NEW_TOKENS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Threshold:
    """How far an export may be from its model.

    Attributes:
        max_difference: largest difference of two logits, in units of the largest logit.
        mean_kl: nats per token.
        argmax_agreement: share of positions whose best token is the same.
        same_greedy: whether greedy text must be identical.
    """

    max_difference: float | None = None
    mean_kl: float | None = None
    argmax_agreement: float = 1.0
    same_greedy: bool = False


_WIDE = Threshold(max_difference=1e-5, same_greedy=True)
_HALF = Threshold(mean_kl=1e-3, argmax_agreement=0.995)
_ROUNDING_FACTOR = 2.0
THRESHOLDS = {"float64": _WIDE, "float32": _WIDE, "bfloat16": _HALF, "float16": _HALF}


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """An exported folder and the model it was made from.

    Attributes:
        exported: the folder to verify.
        against: the upcycled model: folder or hub id.
        texts: real text by language; without any, seeded random token ids are compared.
        without_exact_retention: switch the model's retention gate off for the comparison.
    """

    exported: Path
    against: str | Path
    texts: Mapping[str, Sequence[str]] | None = None
    without_exact_retention: bool = False


def verify(
    exported: Path, against: str | Path, *, texts: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """Compare an exported folder with its model, and write the result beside the weights.

    Args:
        exported: what `export` wrote.
        against: the upcycled model.
        texts: real text by language; without it seeded random token ids are compared, and the
            result says so.

    Returns:
        The result; `passed` and `failures` say what came out.

    Raises:
        ExportError: the process that runs the export did not come back.
        CheckpointError: a folder cannot be opened.
    """
    record = read_record(exported) or {}
    pair = Pair(
        exported=exported,
        against=against,
        texts=texts,
        without_exact_retention=record.get("without_exact_retention", False),
    )
    (result,) = verify_all([pair])
    write_json(exported / VERIFICATION_FILE, result)
    return result


def verify_all(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Results of several pairs; one process runs all the exports."""
    with tempfile.TemporaryDirectory(prefix="polycycle-verify-") as name:
        work = Path(name)
        jobs = [_prepare(pair, work / str(number)) for number, pair in enumerate(pairs)]
        measured = _run_elsewhere(jobs, work / "job.json")
        results = [_judge(pair, found) for pair, found in zip(pairs, measured, strict=True)]
        for number, (pair, result) in enumerate(zip(pairs, results, strict=True)):
            if _may_be_rounding(result):
                half = Path(jobs[number]["reference"])
                results[number] = _settle(pair, result, half, work / f"{number}-float32")
        return results


def _prepare(pair: Pair, work: Path, *, dtype: str = "auto") -> dict[str, Any]:
    """Run the upcycled model, and leave what it computed for the other process."""
    work.mkdir()
    checkpoint = open_checkpoint(pair.against)
    texts = {
        label: [text for text in some if text.strip()][:_TEXTS]
        for label, some in (pair.texts or {}).items()
    }
    if texts and not checkpoint.has_tokenizer:
        raise ExportError(f"{checkpoint.name} has no tokenizer, so text cannot be compared")
    model = AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype=dtype).eval()
    ids = _ids_of_text(checkpoint.folder, texts) if texts else _random_ids(model.config.vocab_size)
    tensors: dict[str, Tensor] = {}
    with without_retention_gate() if pair.without_exact_retention else nullcontext():
        for label, rows in ids.items():
            for number, row in enumerate(rows):
                prompt = min(_PROMPT_TOKENS, max(1, len(row) // 2))
                logits, greedy = stock_side.run(
                    model, row, prompt_tokens=prompt, new_tokens=_NEW_TOKENS
                )
                found = {"ids": row, "logits": logits, "greedy": greedy}
                found["prompt_tokens"] = torch.tensor(prompt)
                tensors |= {f"{label}/{number}/{k}": v.contiguous() for k, v in found.items()}
    save_file(tensors, work / "reference.safetensors")
    return {
        "folder": str(pair.exported.resolve()),
        "dtype": dtype,
        "reference": str(work / "reference.safetensors"),
        "result": str(work / "result.json"),
        "texts": texts or None,
    }


def _ids_of_text(folder: Path, texts: dict[str, list[str]]) -> dict[str, list[Tensor]]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids: dict[str, list[Tensor]] = {}
    for label, some in texts.items():
        rows = [tokenizer(text).input_ids[:_TOKENS] for text in some]
        if not rows or not all(rows):
            raise ExportError(f"text for {label!r}: nothing in it; give a file with real sentences")
        ids[label] = [torch.tensor(row) for row in rows]
    return ids


def _random_ids(vocab_size: int) -> dict[str, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return {
        RANDOM_IDS: [
            torch.randint(0, vocab_size, (_TOKENS,), generator=generator) for _ in range(_TEXTS)
        ]
    }


def _run_elsewhere(jobs: list[dict[str, Any]], file: Path) -> list[dict[str, Any]]:
    """What another process measured, job by job: one for transformers, one for llama.cpp."""
    ours = Path(stock_side.__file__)
    is_gguf = [(Path(job["folder"]) / GGUF_FILE).is_file() for job in jobs]
    for script, wanted in ((ours, False), (ours.with_name("llama_cpp_side.py"), True)):
        some = [job for job, found in zip(jobs, is_gguf, strict=True) if found == wanted]
        if some:
            whole = {"threads": torch.get_num_threads(), "models": some}
            file.write_text(json.dumps(whole), encoding="utf-8")
            _run_script(script, file)
    return [json.loads(Path(job["result"]).read_text("utf-8")) for job in jobs]


def _run_script(script: Path, job: Path) -> None:
    if script.name.startswith("llama_cpp") and find_spec("llama_cpp") is None:
        raise ExportError(
            "llama.cpp is not installed, so the GGUF file was not run: pip install "
            "llama-cpp-python (it builds for some minutes), or say --no-verify"
        )
    # -P: the script's own folder stays off the path, so its neighbours shadow nothing.
    command = [sys.executable, "-P", str(script), str(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ExportError(
            f"the process that runs the export ended with code {done.returncode}: {last}. "
            "A negative code or 137 means that it was killed, most often for memory"
        )


def _may_be_rounding(result: dict[str, Any]) -> bool:
    """Whether a proof failed in half precision, and for nothing but distances."""
    if result["passed"] or "languages" not in result or THRESHOLDS[result["dtype"]] is not _HALF:
        return False
    return not _failures_of_kind(result["tensor_names"], result["polycycle_imported"]) and all(
        one["is_finite"] and one["same_token_ids"] for one in result["languages"].values()
    )


def _settle(pair: Pair, result: dict[str, Any], half: Path, work: Path) -> dict[str, Any]:
    """The result with float32's judgement instead of half precision's thresholds."""
    wide = _prepare(pair, work, dtype="float32")
    narrow = wide | {"dtype": "auto", "result": str(work / "half.json")}
    # llama.cpp cannot run a file in another dtype than its own: there, the second half decides.
    is_gguf = (pair.exported / GGUF_FILE).is_file()
    jobs = [narrow] if is_gguf else [narrow, wide]
    measured_half, *measured_wide = _run_elsewhere(jobs, work / "job.json")
    in_float32 = [_judge(pair, measured) for measured in measured_wide]
    failures = [f"in float32, {failure}" for one in in_float32 for failure in one["failures"]]
    own = _kl_of_references(Path(wide["reference"]), half)
    exports = _of_nine_in_ten(text for texts in measured_half["labels"].values() for text in texts)
    if not exports <= _ROUNDING_FACTOR * own:
        failures.append(
            f"nine tokens in ten are up to {exports:.1e} nats from float32, in the model's own "
            f"{result['dtype']} {own:.1e}"
        )
    return result | {
        "passed": not failures,
        "failures": [*result["failures"], *failures] if failures else [],
        "settled_in_float32": {
            "because": result["failures"],
            "languages": in_float32[0].get("languages") if in_float32 else None,
            "kl_of_nine_in_ten_to_float32": {"model": own, "export": exports},
        },
    }


def _kl_of_references(wide: Path, half: Path) -> float:
    """How far nine tokens in ten of the model's half precision are from its float32."""
    with safe_open(wide, framework="pt") as first, safe_open(half, framework="pt") as second:
        return _of_nine_in_ten(
            stock_side.compare(first.get_tensor(key), second.get_tensor(key))
            for key in first.keys()  # noqa: SIM118
            if key.endswith("/logits")
        )


def _of_nine_in_ten(texts: Iterable[dict[str, Any]]) -> float:
    """The divergence in nats that nine in ten tokens of all these texts do not exceed."""
    kl = torch.tensor([kl for text in texts for kl in text["kl_nats_of_tokens"]])
    return float(kl.quantile(0.9))


def _judge(pair: Pair, found: dict[str, Any]) -> dict[str, Any]:
    """The record of a verification, from what the other process measured."""
    real = bool(pair.texts)
    result: dict[str, Any] = {
        "passed": False,
        "failures": [],
        "against": str(pair.against),
        "text": "real text" if real else "seeded random token ids, no text was given",
        "without_exact_retention": pair.without_exact_retention,
        "versions": found["versions"],
    }
    if "error" in found:
        result["failures"] = [f"the exported folder does not load or run: {found['error']}"]
        return result
    threshold = THRESHOLDS[found["dtype"]]
    languages = {label: _summary(texts) for label, texts in found["labels"].items()}
    failures = _failures_of_kind(found["tensor_names"], found["polycycle_imported"])
    if pair.texts:
        languages = {label: languages[label] for label in pair.texts}
    for label, summary in languages.items():
        failures += [f"{label}: {failure}" for failure in _failures(summary, threshold)]
    return result | {
        "passed": not failures,
        "failures": failures,
        "dtype": found["dtype"],
        "model_class": found["model_class"],
        "thresholds": asdict(threshold),
        "tensor_names": found["tensor_names"],
        "polycycle_imported": found["polycycle_imported"],
        "languages": languages,
    }


def _failures_of_kind(tensor_names: dict[str, list[str]], polycycle_imported: bool) -> list[str]:
    """What is wrong with the folder or with the proof, whatever the logits."""
    failures = [
        f"{kind} tensor names: {', '.join(names[:3])} ({len(names)} in all)"
        for kind, names in tensor_names.items()
        if names
    ]
    if polycycle_imported:
        failures.append("the other process had imported polycycle")
    return failures


def _summary(texts: list[dict[str, Any]]) -> dict[str, Any]:
    """One label's texts taken together."""
    tokens = sum(text["tokens"] for text in texts)
    return {
        "texts": len(texts),
        "tokens": tokens,
        "max_abs_difference": max(text["max_abs_difference"] for text in texts),
        "scale": max(text["scale"] for text in texts),
        "mean_kl": sum(sum(text["kl_nats_of_tokens"]) for text in texts) / tokens,
        "argmax_agreement": sum(text["same_argmax"] for text in texts) / tokens,
        "same_greedy": sum(text["same_greedy"] for text in texts),
        "is_finite": all(text["is_finite"] for text in texts),
        "is_bit_equal": all(text["is_bit_equal"] for text in texts),
        "same_token_ids": all(text.get("same_ids", True) for text in texts),
    }


def _failures(summary: dict[str, Any], threshold: Threshold) -> list[str]:
    failures = []
    relative = summary["max_abs_difference"] / summary["scale"]
    if not summary["is_finite"]:
        failures.append("logits that are not finite")
    if threshold.max_difference is not None and not relative <= threshold.max_difference:
        failures.append(
            f"logits differ by {relative:.1e} of the largest; at most {threshold.max_difference:g}"
        )
    if threshold.mean_kl is not None and not summary["mean_kl"] <= threshold.mean_kl:
        failures.append(f"mean KL {summary['mean_kl']:.1e}; at most {threshold.mean_kl:g}")
    if not summary["argmax_agreement"] >= threshold.argmax_agreement:
        failures.append(
            f"argmax agrees on {summary['argmax_agreement']:.2%} of {summary['tokens']} tokens; "
            f"at least {threshold.argmax_agreement:.1%}"
        )
    if threshold.same_greedy and summary["same_greedy"] < summary["texts"]:
        different = summary["texts"] - summary["same_greedy"]
        failures.append(f"greedy text differs for {different} of {summary['texts']} prompts")
    if not summary["same_token_ids"]:
        failures.append("the exported tokenizer gives other token ids")
    return failures
