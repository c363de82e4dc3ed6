"""Recipes that train a dense baseline: what they write, on which texts, and that it is plain."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from polycycle.checkpoint import open_checkpoint
from polycycle.cli.forecast import show_plan
from polycycle.config import parse_recipe
from polycycle.errors import ConfigError
from polycycle.languages import NO_LANGUAGE
from polycycle.report import model_card, terminal_table, write_report
from polycycle.results import load_result, save_result
from polycycle.stages import Run, plan_run, run_recipe, stage_folders
from polycycle.stages.baseline import baseline_data, replayed_documents
from polycycle.stages.train import training_data
from tests.text import VOCAB_SIZE, make_tokenizer, sentences, write_jsonl
from tests.tiny import edit_config, save_dense

NAMES = {"full": "full-fine-tuning", "lora": "lora", "llama_pro": "llama-pro"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("baseline")
    base = save_dense(folder / "base", vocab_size=VOCAB_SIZE, dtype=torch.bfloat16)
    make_tokenizer().save_pretrained(base)
    for language in ("en", "es", "el", "tr"):
        for part, seed, count in (("train", 0, 80), ("valid", 1, 10)):
            rows = [{"text": text} for text in sentences(language, count, seed=seed)]
            write_jsonl(folder / part / f"{language}.jsonl", rows)
    return folder


def settings(world, output, **changes):
    training = {"batch_size": 4, "sequence_length": 32, "learning_rate": 0.01}
    return {
        "base": str(world / "base"),
        "output": str(output),
        "languages": {"original": ["en"], "unseen_original": ["es"], "expanded": ["el", "tr"]},
        "data": {
            "root": str(world),
            "train": "train/{language}.jsonl",
            "valid": "valid/{language}.jsonl",
            "cache_dir": str(world / "cache"),
        },
        "post_pretrain": {"tokens": 1500, **training},
        "review": {"replay_documents": 20, "expanded_documents": 20, **training},
        **changes,
    }


@pytest.mark.parametrize("method", NAMES)
def test_a_baseline_run_ends_with_a_plain_dense_model_and_a_report(world, tmp_path, method):
    notes = []
    recipe = parse_recipe(settings(world, tmp_path / "run", baseline=method))
    result = run_recipe(recipe, notes.append)
    name = NAMES[method]
    assert [model.name for model in result.models] == ["base", name]
    assert result.method == {"full": "Full fine-tuning", "lora": "LoRA"}.get(method, "LLaMA-Pro")
    assert result.final.routing is None
    base = load_file(tmp_path.parent / world / "base" / "model.safetensors")
    tensors = load_file(tmp_path / "run" / name / "model.safetensors")
    moved = {n for n in base if n in tensors and not torch.equal(tensors[n], base[n])}
    if method == "full":
        assert moved == set(base)
    elif method == "lora":
        assert moved
        assert all("_proj" in name for name in moved)
        assert tensors.keys() == base.keys()
    else:
        # Three blocks, and one more after the second: 0, 1, new, 2.
        kept = {n: n.replace("layers.2.", "layers.3.") for n in base}
        assert all(torch.equal(tensors[kept[n]], base[n]) for n in base)
        new = set(tensors) - set(kept.values())
        assert {n.split(".")[2] for n in new} == {"2"}
        assert tensors["model.layers.2.mlp.down_proj.weight"].any()
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    cost = result.costs[0]
    assert cost.tokens == sum(data.tokens for data in result.data if data.part == "replay") + 1500
    assert 0 < cost.parameters_trainable <= result.final.parameters_total + 10_000
    assert result.curves[0].training[-1].balance_loss is None
    assert result.curves[0].routing == ()
    # Done once; the report and the card stand on a dense final model.
    manifests = stage_folders(tmp_path / "run")
    notes.clear()
    again = run_recipe(recipe, notes.append)
    assert again.models == result.models
    assert stage_folders(tmp_path / "run") == manifests
    assert load_result(save_result(result, tmp_path / "result.json")) == result
    page = write_report(result, tmp_path / "report").read_text()
    assert f"{result.method}</th>" in page or f">{result.method}" in page
    assert "import polycycle" not in page
    terminal_table(result)
    card = model_card(result)
    assert "import polycycle" not in card
    assert "xpert" not in card
    assert "```python\nfrom transformers" in card


def test_the_result_loads_without_polycycle(world, tmp_path):
    run_recipe(
        parse_recipe(settings(world, tmp_path / "run", baseline="llama_pro")), lambda note: None
    )
    code = (
        "import sys\n"
        "from transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(tmp_path / 'run' / 'llama-pro')!r})\n"
        "assert not any(name.startswith('polycycle') for name in sys.modules)\n"
        "print(type(model).__name__, model.config.num_hidden_layers)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["LlamaForCausalLM", "4"]


def test_a_baseline_reads_what_post_pretraining_and_review_would(world, tmp_path):
    def tokens(dataset):
        items = [dataset[index] for index in range(len(dataset))]
        found = [(i["language_ids"], i["input_ids"]) for i in items]
        pairs = torch.cat([torch.stack(pair, 1) for pair in found])
        return sorted(map(tuple, pairs[pairs[:, 0] != NO_LANGUAGE].tolist()))

    changed = settings(world, tmp_path / "run", baseline="full")
    changed["review"] |= {"sequence_length": 16}
    recipe = parse_recipe(changed)
    corpora = Run(recipe, lambda note: None).corpora
    joined = tokens(baseline_data(recipe, corpora, pad_token=1))
    stages = [training_data(recipe, one, corpora, 1) for one in ("post_pretrain", "review")]
    assert joined == sorted(tokens(stages[0]) + tokens(stages[1]))
    replayed = sum(language == 0 for language, _ in joined)
    assert replayed == corpora.review["en"].statistics.tokens
    without = parse_recipe({**changed, "review": None})
    alone = tokens(baseline_data(without, Run(without, lambda note: None).corpora, pad_token=1))
    assert alone == tokens(stages[0])


def test_a_head_that_is_tied_but_saved_twice_stays_tied(world, tmp_path):
    base = save_dense(tmp_path / "base", "qwen2", vocab_size=VOCAB_SIZE)
    make_tokenizer().save_pretrained(base)
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    edit_config(base, tie_word_embeddings=True)
    recipe = parse_recipe(settings(world, tmp_path / "run", baseline="full", base=str(base)))
    folder = run_recipe(recipe, lambda note: None).final.folder
    checkpoint = open_checkpoint(folder)
    head, embeddings = (checkpoint.read(n) for n in ("lm_head.weight", "model.embed_tokens.weight"))
    assert torch.equal(head, embeddings)
    assert not torch.equal(head, tensors["lm_head.weight"])
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(model.lm_head.weight, embeddings)


def test_a_changed_review_rate_changes_nothing_but_its_documents_do(world, tmp_path):
    def key(**review):
        changed = settings(world, tmp_path / "run", baseline="lora")
        changed["review"] = {**changed["review"], **review}
        notes = []
        run_recipe(parse_recipe(changed), notes.append)
        return json.loads((tmp_path / "run" / "lora" / "manifest.json").read_text())["key"]

    first = key()
    assert key(learning_rate=0.1, prior_coef=7.0) == first
    assert key(tokens=200) != first


def test_what_a_baseline_cannot_be_is_said(world, tmp_path):
    two = {"original": ["en"], "expanded": [["el"], ["tr"]]}
    with pytest.raises(ConfigError, match="one group"):
        parse_recipe(settings(world, tmp_path, baseline="full", languages=two))
    with pytest.raises(ConfigError, match="Did you mean 'rank'"):
        parse_recipe(settings(world, tmp_path, baseline={"method": "lora", "rnk": 4}))
    with pytest.raises(ConfigError, match="one of full, lora, llama_pro, loramoe, half, shielded"):
        parse_recipe(settings(world, tmp_path, baseline="adapters"))


def test_a_loramoe_run_keeps_the_base_and_says_what_loads_it(world, tmp_path):
    method = {"method": "loramoe", "num_experts": 4, "rank": 2}
    recipe = parse_recipe(settings(world, tmp_path / "run", baseline=method))
    result = run_recipe(recipe, lambda note: None)
    assert [model.name for model in result.models] == ["base", "loramoe"]
    assert result.method == "LoRAMoE"
    base = open_checkpoint(world / "base")
    start = open_checkpoint(tmp_path / "run" / "add-lora-experts")
    final = open_checkpoint(result.final.folder)
    assert set(start.tensors) == set(final.tensors) > set(base.tensors)
    for name in final.tensors:
        was = base if name in base.tensors else start
        assert torch.equal(final.read(name), was.read(name)) == (name in base.tensors), name
    new = sum(final.read(name).numel() for name in final.tensors if name not in base.tensors)
    assert result.costs[0].parameters_trainable == new
    assert result.final.parameters_active == result.final.parameters_total
    page = write_report(result, tmp_path / "report").read_text()
    assert "import polycycle" in page
    terminal_table(result)
    assert "import polycycle" in model_card(result)


@pytest.mark.parametrize(
    "method",
    [
        "full",
        "lora",
        {"method": "llama_pro", "every": 1},
        {"method": "loramoe", "num_experts": 4, "rank": 3},
        "half",
        {"method": "shielded", "share": 0.25, "calibration_tokens": 300},
    ],
    ids=lambda method: method if isinstance(method, str) else method["method"],
)
def test_the_plan_of_a_baseline_is_of_the_dense_model_that_its_run_trains(
    world, tmp_path, method, capsys
):
    asked = settings(world, tmp_path / "run", baseline=method)
    asked["review"] = {**asked["review"], "tokens": 400}
    plan = plan_run(parse_recipe(asked))
    (stage,) = plan.stages
    result = run_recipe(parse_recipe(asked), lambda note: None)
    (cost,) = result.costs
    assert (stage.stage, stage.tokens) == (cost.stage, 1900)
    assert stage.parameters_trainable == cost.parameters_trainable
    assert stage.steps == pytest.approx(cost.steps, abs=2)
    assert stage.memory_bytes > 4 * plan.parameters_total + 12 * cost.parameters_trainable
    assert plan.parameters_total == plan.parameters_active == result.final.parameters_total
    size = (tmp_path / "run" / cost.stage / "model.safetensors").stat().st_size
    assert size == pytest.approx(plan.checkpoint_bytes, rel=0.15)
    sizes = [file.stat().st_size for file in (tmp_path / "run").glob("*/model.safetensors")]
    checkpoints = 2 * 12 * cost.parameters_trainable
    assert sum(sizes) == pytest.approx(plan.disk_bytes - checkpoints, rel=0.15)
    assert set(plan.folders) == set(stage_folders(tmp_path / "run"))
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(asked))  # JSON is YAML
    show_plan(path, [], probe=True, as_json=False)
    assert "experts [" not in capsys.readouterr().out


def test_the_localized_constraint_moves_the_experts(world, tmp_path):
    def trained(**method):
        method = {"method": "loramoe", "num_experts": 4, "rank": 2, **method}
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        result = run_recipe(
            parse_recipe(settings(world, folder, baseline=method)), lambda note: None
        )
        checkpoint = open_checkpoint(result.final.folder)
        return checkpoint.read("model.layers.0.mlp.up_proj.lora.router")

    once, again = trained(), trained()
    assert torch.equal(once, again)
    assert not torch.equal(once, trained(balance_coef=0.0))
    assert not torch.equal(once, trained(balance_delta=0.5))


def test_half_fine_tuning_leaves_its_half_bit_for_bit(world, tmp_path):
    result = run_recipe(
        parse_recipe(settings(world, tmp_path / "run", baseline="half")), lambda note: None
    )
    assert result.final.name == "half-fine-tuning"
    base, final = open_checkpoint(world / "base"), open_checkpoint(result.final.folder)
    kept = sum(torch.equal(base.read(name), final.read(name)) for name in base.tensors)
    assert 0.4 < kept / len(base.tensors) < 0.6
    assert "import polycycle" not in model_card(result)


def test_shielded_fine_tuning_leaves_the_columns_that_it_scored_highest(world, tmp_path):
    method = {"method": "shielded", "share": 0.25, "calibration_tokens": 300}
    asked = settings(world, tmp_path / "run", baseline=method)
    asked["post_pretrain"] = {**asked["post_pretrain"], "weight_decay": 0.1}
    recipe = parse_recipe(asked)
    result = run_recipe(recipe, lambda note: None)
    assert result.method == "Source-shielded fine-tuning"
    assert plan_run(recipe).folders[1] == "shield-columns"
    columns = load_file(tmp_path / "run" / "shield-columns" / "columns.safetensors")
    base, final = open_checkpoint(world / "base"), open_checkpoint(result.final.folder)
    free = 0
    for name in base.tensors:
        same = base.read(name) == final.read(name)
        frozen = columns.get(name.removesuffix(".weight"))
        if frozen is not None:
            assert len(frozen) == same.shape[1] // 4
            assert same[:, frozen].all(), name
            free += same.numel() * 3 // 4
        else:
            free += same.numel()
        assert not same.all(), name
    cost = result.costs[0]
    assert cost.parameters_trainable == free
    assert cost.training_flops == cost.tokens * (4 * result.final.parameters_total + 2 * free)
    manifest = json.loads((tmp_path / "run" / "shield-columns" / "manifest.json").read_text())
    assert 250 < manifest["costs"]["tokens"] <= 300
    trained = stage_folders(tmp_path / "run")["shielded-fine-tuning"]
    assert trained["inputs"]["start"][0] == manifest["key"]
    assert "import polycycle" not in model_card(result)


def test_columns_are_scored_on_no_more_than_the_bases_context(world, tmp_path):
    recipe = parse_recipe(settings(world, tmp_path / "run", baseline="shielded"))
    run = Run(recipe, lambda note: None)
    longest = max(map(len, replayed_documents(run, 10_000)))
    run.base.config["max_position_embeddings"] = longest - 1
    assert max(map(len, replayed_documents(run, 10_000))) == longest - 1


def test_wrong_labels_of_a_review_are_passed_over_by_a_baseline(world, tmp_path):
    def labels(wrong):
        asked = settings(world, tmp_path / "run", baseline="loramoe")
        asked["review"] = {**asked["review"], "wrong_labels": wrong}
        run = Run(parse_recipe(asked), lambda note: None)
        data = baseline_data(run.recipe, run.corpora, run.pad_token)
        return torch.stack([data[n]["language_ids"] for n in range(len(data))])

    assert torch.equal(labels(0.0), labels(0.9))


def test_shielding_needs_replayed_text_and_whole_models(world, tmp_path):
    without = settings(world, tmp_path, baseline="shielded", review=None)
    with pytest.raises(ConfigError, match="replayed text of the original languages; set"):
        parse_recipe(without)
    without["post_pretrain"]["replay_share"] = 0.2
    assert parse_recipe(without).baseline.share == 0.5
    without["post_pretrain"]["fsdp"] = True
    with pytest.raises(ConfigError, match="what `shielded` freezes is copied"):
        parse_recipe(without)
