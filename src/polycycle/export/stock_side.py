"""The exported side of a verification: run as a script, in a process without polycycle.

    python -P stock_side.py JOB.json

It must import nothing of polycycle: it proves that the exported folder needs nothing of it. The job
lists exported folders, each with the dtype to run it in (`auto`: its own) and a safetensors file of
what the original computed: for text i of label L the tensors `L/i/ids` [S], `L/i/logits` [S, V]
and `L/i/greedy` [new tokens].
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer


@torch.no_grad()
def run(model: Any, ids_S: Tensor, *, prompt_tokens: int, new_tokens: int) -> tuple[Tensor, Tensor]:
    """Logits [S, V] of a text, and the greedy continuation [new tokens] of its beginning."""
    logits_SV = model(ids_S[None], use_cache=False).logits[0]
    out = model(ids_S[None, :prompt_tokens], use_cache=True)
    greedy = []
    for _ in range(new_tokens):
        chosen = out.logits[:, -1:].argmax(-1)
        greedy.append(chosen)
        out = model(chosen, past_key_values=out.past_key_values, use_cache=True)
    return logits_SV, torch.cat(greedy, 1)[0]


def compare(expected_SV: Tensor, got_SV: Tensor) -> dict[str, Any]:
    """How far two sets of logits are apart, so that several texts can be taken together."""
    expected, got = expected_SV.double(), got_SV.double()
    log_p, log_q = expected.log_softmax(-1), got.log_softmax(-1)
    kl_S = (log_p.exp() * (log_p - log_q)).sum(-1)
    return {
        "tokens": len(expected),
        "max_abs_difference": (expected - got).abs().max().item(),
        "scale": expected.abs().max().item(),
        "kl_nats_of_tokens": kl_S.tolist(),
        "same_argmax": int((expected.argmax(-1) == got.argmax(-1)).sum()),
        "is_finite": bool(got.isfinite().all()),
        "is_bit_equal": torch.equal(expected_SV, got_SV),
    }


def in_order(names: list[str]) -> list[str]:
    """The keys of token ids, by label and number."""
    keys = [name for name in names if name.endswith("/ids")]
    return sorted(keys, key=lambda key: (key.rsplit("/", 2)[0], int(key.rsplit("/", 2)[1])))


def measure(
    folder: str, reference: str, texts: dict[str, list[str]] | None, *, dtype: str
) -> dict[str, Any]:
    """Load an exported folder with plain transformers and compare it with the reference."""
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, output_loading_info=True, experts_implementation="eager"
    )
    model.eval()
    measured: dict[str, Any] = {
        "model_class": type(model).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "tensor_names": {
            kind: sorted(map(str, info.get(f"{kind}_keys") or ()))
            for kind in ("missing", "unexpected", "mismatched")
        },
        "labels": {},
    }
    tokenizer: Any = AutoTokenizer.from_pretrained(folder) if texts is not None else None
    with safe_open(reference, framework="pt") as file:
        for key in in_order(file.keys()):
            label, number, _ = key.rsplit("/", 2)
            ids = file.get_tensor(key)
            expected = file.get_tensor(f"{label}/{number}/logits")
            greedy = file.get_tensor(f"{label}/{number}/greedy")
            prompt = int(file.get_tensor(f"{label}/{number}/prompt_tokens"))
            got, text = run(model, ids, prompt_tokens=prompt, new_tokens=len(greedy))
            found = compare(expected, got) | {"same_greedy": torch.equal(text, greedy)}
            if texts is not None:
                again = tokenizer(texts[label][int(number)]).input_ids
                found["same_ids"] = again[: len(ids)] == ids.tolist()
            measured["labels"].setdefault(label, []).append(found)
    return measured


def main(job_path: str) -> None:
    """Measure every model of a job; each result is a JSON file of its own."""
    job = json.loads(Path(job_path).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    for model in job["models"]:
        try:
            measured = measure(
                model["folder"], model["reference"], model["texts"], dtype=model["dtype"]
            )
        except Exception as error:  # whatever it is, the folder does not load or run
            measured = {"error": f"{type(error).__name__}: {error}"}
        measured["polycycle_imported"] = any(n.split(".")[0] == "polycycle" for n in sys.modules)
        measured["versions"] = {
            "python": ".".join(map(str, sys.version_info[:3])),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        Path(model["result"]).write_text(json.dumps(measured), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
