"""The work that is done on a GPU: training, measuring, writing."""

import dataclasses
import math

import pytest
import torch

from polycycle.data import (
    Question,
    TextSource,
    document_policy,
    evaluation_windows,
    tokenize_corpus,
)
from polycycle.evaluation import (
    answer_questions,
    complete_prompts,
    judge_mixed,
    mean_unit_vectors,
    measure_gate,
    measure_paces,
    measure_text,
    prefill_speed,
)
from polycycle.inference import Conversation, Sampling, load_speaker, open_model
from polycycle.inference.loading import choose_device_and_dtype
from polycycle.stages.evaluate import load_model
from polycycle.training import TrainSettings, fast_bfloat16, train_stage
from polycycle.training.run import _arguments
from tests.evaluation.test_retention import batch_of
from tests.export.upcycled import save_upcycled
from tests.gpu.device import DEVICE, ON_GPU, is_on_gpu, on_gpu
from tests.text import VOCAB_SIZE, make_tokenizer, sentences, write_jsonl
from tests.tiny import load, token_ids
from tests.training.tiny_run import GROUPS, Sequences, tiny_moe

pytestmark = ON_GPU

# --- training -------------------------------------------------------------------------------------

SETTINGS = TrainSettings(
    batch_size=4,
    micro_batch_size=2,
    learning_rate=1e-2,
    precision="bfloat16",
    balance_coef=0.01,
    prior_coef=0.1,
    router_z_coef=0.001,
    log_every_steps=1,
    save_every_steps=2,
)


class KilledError(Exception):
    """Stands for the end of a process."""


class Watched(Sequences):
    """Remembers which items were asked for; may end the run at one of them."""

    def __init__(self, *, last=None):
        super().__init__()
        self.asked, self.last = [], last

    def __getitem__(self, index):
        if index == self.last:
            raise KilledError
        self.asked.append(index)
        return super().__getitem__(index)


def train(folder, name, dataset=None, *, stage="post_pretrain", model=None, **settings):
    """(the model, what its training came to)."""
    validate = settings.pop("validate", None)
    model = tiny_moe(folder) if model is None else model
    done = train_stage(
        model,
        dataset or Sequences(),
        stage=stage,
        groups=GROUPS,
        output_dir=folder / name,
        settings=dataclasses.replace(SETTINGS, **settings),
        validate=validate,
        tell=lambda message: None,
    )
    assert is_on_gpu(model)
    return model, done


def lines(done):
    return [line for line in done.metrics if line["kind"] == "train"]


def assert_close_lines(ours, theirs, rel):
    """The same steps and tokens; losses within `rel`."""
    for one, other in zip(ours, theirs, strict=True):
        for key in ("step", "tokens", "learning_rate"):
            assert one[key] == other[key]
        assert one["loss"] == pytest.approx(other["loss"], rel=rel)
        assert one["lm_loss"] == pytest.approx(other["lm_loss"], rel=rel)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", ["post_pretrain", "review"])
def test_frozen_tensors_are_bit_identical_after_training(tmp_path, stage, precision):
    before = {name: p.detach().clone() for name, p in tiny_moe(tmp_path).named_parameters()}
    model, done = train(tmp_path, "run", stage=stage, precision=precision)
    assert done.steps == 6
    assert {tensor.dtype for tensor in done.trained.values()} == {torch.float32}
    assert {tensor.device.type for tensor in done.trained.values()} == {"cpu"}
    for name, parameter in model.named_parameters():
        is_same = torch.equal(parameter.detach().cpu(), before[name])
        assert is_same == (name not in done.trained), name


def test_bfloat16_autocast_trains_to_within_two_percent_of_float32(tmp_path):
    _, exact = train(tmp_path, "float32", precision="float32")
    _, rounded = train(tmp_path, "bfloat16")
    assert_close_lines(lines(rounded), lines(exact), rel=0.02)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_killed_run_goes_on_where_it_was_and_ends_as_an_unbroken_one(tmp_path, precision):
    (tmp_path / "other").mkdir()
    whole, unbroken = train(tmp_path, "run", precision=precision)
    with pytest.raises(KilledError):  # in the fifth of six steps
        train(tmp_path / "other", "run", Watched(last=18), precision=precision)
    dataset = Watched()
    again, resumed = train(tmp_path / "other", "run", dataset, precision=precision)
    assert resumed.was_resumed
    assert resumed.steps == unbroken.steps
    assert resumed.tokens == unbroken.tokens
    assert dataset.asked[-8:] == list(range(16, 24))
    assert_close_lines(lines(resumed), lines(unbroken), rel=1e-3)
    theirs = dict(whole.named_parameters())
    for name, parameter in again.named_parameters():
        if name not in resumed.trained:
            assert torch.equal(parameter, theirs[name]), name
    # Attention's backward pass may add in any order, so this is told and not held.
    is_same = all(torch.equal(t, unbroken.trained[n]) for n, t in resumed.trained.items())
    print(f"{precision}: resumed and unbroken have the same bits: {is_same}")


def test_gradient_checkpointing_changes_no_loss(tmp_path):
    _, plain = train(tmp_path, "plain", precision="float32")
    _, recomputed = train(tmp_path, "again", precision="float32", gradient_checkpointing=True)
    assert_close_lines(lines(recomputed), lines(plain), rel=1e-3)


def test_review_with_classifiers_and_a_gate_trains_both(tmp_path):
    model = tiny_moe(tmp_path, classifier_layers=[1], exact_retention=True)
    model, done = train(tmp_path, "run", stage="review", classifier_coef=1.0, model=model)
    assert any("classifier" in name for name in done.trained)
    assert any("retention_gate" in name for name in done.trained)
    assert all(tensor.any() for tensor in done.trained.values())
    assert all(line["classifier_loss"] > 0 for line in lines(done))


def test_validation_in_training_sees_the_model_on_the_gpu(tmp_path):
    ids, seen = token_ids(2, 10), []

    def validate(model):
        seen.append(model.device.type)
        with torch.no_grad():
            loss = model(ids.to(model.device), labels=ids.to(model.device)).loss
        return {"en": loss.item(), "el": loss.item()}

    train(tmp_path, "run", validate=validate)
    assert set(seen) == {DEVICE}
    assert len(seen) > 2


def test_auto_precision_is_bfloat16_where_the_gpu_has_it():
    assert fast_bfloat16() == (torch.cuda.get_device_capability() >= (8, 0))


def test_one_process_trains_on_one_gpu_however_many_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    args = _arguments(tmp_path, SETTINGS, 24, is_sharded=False)
    assert args.n_gpu == 1
    assert args.train_batch_size == 2


# --- measuring ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Unequal counts, a dense layer, a classifier."""
    settings = {"classifier_layers": (0,), "config": {"vocab_size": VOCAB_SIZE}}
    folder = tmp_path_factory.mktemp("work")
    model = save_upcycled(folder, "llama", num_experts=[4, 1, 3], **settings)
    make_tokenizer().save_pretrained(model)
    return model


@pytest.fixture(scope="module")
def pair(folder):
    """(the model on the GPU, the same on the CPU), float32."""
    model = load(folder, torch.float32)
    return on_gpu(model), model


@pytest.fixture(scope="module")
def gated_pair(tmp_path_factory):
    """As `pair`, with a retention gate."""
    folder = tmp_path_factory.mktemp("gated")
    model = load(save_upcycled(folder, "llama", exact_retention=True))
    return on_gpu(model), model


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    path = write_jsonl(folder / "el.jsonl", [{"text": text} for text in sentences("el", 12)])
    return tokenize_corpus(TextSource(path=str(path)), "el", make_tokenizer(), folder / "cache")


def windows(corpus):
    return evaluation_windows(corpus, context_length=128, batch_tokens=300)


def test_bits_per_byte_divergence_and_routing_are_those_of_the_cpu(pair, corpus):
    ours, theirs = (measure_text(model, windows(corpus), with_kl=True) for model in pair)
    num_bytes = corpus.statistics.bytes
    assert ours.bits_per_byte(num_bytes) == pytest.approx(theirs.bits_per_byte(num_bytes), rel=1e-4)
    assert ours.kl_nats == pytest.approx(theirs.kl_nats, rel=1e-3)
    assert ours.tokens == theirs.tokens
    assert ours.expert0_share == pytest.approx(theirs.expert0_share, rel=1e-3)
    for index, tally in theirs.layers.items():
        assert ours.layers[index].tokens == tally.tokens
        assert ours.layers[index].assignments.sum() == tally.assignments.sum()


def test_similarity_is_that_of_the_cpu(pair):
    documents = [token_ids(n, seed=n).int().numpy() for n in (17, 5, 40, 1, 23)]
    ours, theirs = (mean_unit_vectors(model, documents, row_tokens=48) for model in pair)
    assert ours.device.type == "cpu"
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_questions_and_prompts_are_answered_as_on_the_cpu(pair):
    tokenizer = make_tokenizer()
    policy = document_policy(tokenizer)
    choices = (" runs down", " sell", " bread and fish town", " old")
    questions = [
        Question(prompt=prompt, choices=choices, answer=answer)
        for prompt in ("the river", "people sell bread", "the")
        for answer in range(4)
    ]
    prompts = ["the river runs", "το ποτάμι", "nehir"]
    ours, theirs = (
        (
            answer_questions(model, tokenizer, questions, policy=policy),
            complete_prompts(model, tokenizer, prompts, policy=policy, max_new_tokens=6),
        )
        for model in pair
    )
    assert ours == theirs


def test_the_gate_is_measured_as_on_the_cpu(gated_pair):
    prompts = token_ids(12, 9, seed=5)
    ours, theirs = (
        measure_gate(model, [batch_of(prompts)], num_bytes=100, threshold=0.0)
        for model in gated_pair
    )
    for name in ("scores", "base_nats", "mixture_nats"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-3, abs=1e-4)
    mixed = judge_mixed(
        gated_pair[0], [batch_of(prompts)], language="el", begins="original", threshold=0.0
    )
    assert mixed.texts == 12


def test_speed_is_measured_on_the_gpu(gated_pair):
    model, _ = gated_pair
    speed = prefill_speed(model, token_ids(300), context_length=64, seconds=0.1)
    assert speed.device == DEVICE
    work = {"prefill": (2, 32), "decode_batches": (2,), "decode_tokens": 4, "rounds": 3}
    paces = measure_paces({"base": model, "moe": model}, token_ids(300), **work)
    assert all(pace.tokens_per_second > 0 for found in paces.values() for pace in found)
    assert all(math.isfinite(pace.of_base) for pace in paces["moe"])


# --- loading and writing --------------------------------------------------------------------------


def test_a_model_is_loaded_onto_the_gpu_in_its_own_dtype(folder, tmp_path):
    assert choose_device_and_dtype("auto", "auto") == (DEVICE, "auto")
    half = save_upcycled(tmp_path, "qwen3", dtype=torch.bfloat16, config={"vocab_size": VOCAB_SIZE})
    make_tokenizer().save_pretrained(half)
    for path, dtype in ((folder, torch.float32), (half, torch.bfloat16)):
        speaker = load_speaker(open_model(path))
        for model in (speaker.model, load_model(open_model(path))):
            assert is_on_gpu(model)
            assert model.dtype == dtype
        talk = Conversation(speaker, Sampling(max_new_tokens=6), with_template=False)
        assert talk.answer("the river runs").num_tokens


@pytest.mark.parametrize("with_trace", [False, True])
def test_a_conversation_on_the_gpu_is_that_of_the_cpu(folder, with_trace):
    answers = []
    for device in (DEVICE, "cpu"):
        speaker = load_speaker(open_model(folder), dtype="float32", device=device)
        sampling = Sampling(max_new_tokens=6)
        talk = Conversation(speaker, sampling, with_template=False, with_trace=with_trace)
        answers.append([talk.answer(text) for text in ("the river runs", "το ποτάμι", "nehir")])
    assert answers[0] == answers[1]  # traces included


def test_sampling_with_a_seed_repeats_itself(folder):
    speaker = load_speaker(open_model(folder))
    sampling = Sampling(max_new_tokens=12, temperature=1.0, seed=7)
    texts = [
        Conversation(speaker, sampling, with_template=False).answer("the river").text
        for _ in range(2)
    ]
    assert texts[0] == texts[1]
