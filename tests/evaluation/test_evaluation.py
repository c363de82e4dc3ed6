"""Measuring: against slow readings, and against what must be exactly nothing."""

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
from polycycle.evaluation import answer_questions, measure_text, routing_table
from polycycle.languages import LanguageGroups
from polycycle.modeling import NewExperts
from polycycle.surgery import upcycle
from tests.text import VOCAB_SIZE, make_tokenizer, sentences, write_jsonl
from tests.tiny import load, save_dense

GROUPS = LanguageGroups(original=("en",), expanded=(("el",),))


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    """(dense, moe with moved experts, corpus, tokenizer)."""
    folder = tmp_path_factory.mktemp("evaluation")
    dense = save_dense(folder / "dense", vocab_size=VOCAB_SIZE, initializer_range=0.1)
    upcycle(dense, folder / "moe", num_experts=(3, 1, 4))
    tokenizer = make_tokenizer()
    path = write_jsonl(folder / "el.jsonl", [{"text": t} for t in sentences("el", 12)])
    corpus = tokenize_corpus(TextSource(path=str(path)), "el", tokenizer, folder / "cache")
    moved = load(folder / "moe")
    torch.manual_seed(1)
    for module in moved.modules():
        if isinstance(module, NewExperts):
            module.down_proj.data += 0.1 * torch.randn_like(module.down_proj)
    return load(dense), moved, corpus, tokenizer


def judging_sequences(setup, folder):
    """The moved model with classifiers that sum over rows, and judge some of them original."""
    dense, moved, _, _ = setup
    settings = {"classifier_layers": [0], "classifier_form": "sequence"}
    upcycle(dense.name_or_path, folder / "judging", num_experts=(3, 1, 4), **settings)
    model = load(folder / "judging")
    model.load_state_dict(moved.state_dict(), strict=False)
    for name, parameter in model.named_parameters():
        if "classifier" in name:
            parameter.data = torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(2)
            )
    return model


def windows(corpus):
    return evaluation_windows(corpus, context_length=128, batch_tokens=300)


@torch.no_grad()
def test_bits_per_byte_is_the_slow_sum_over_documents(setup):
    dense, _, corpus, _ = setup
    nats = 0.0
    for index in range(len(corpus)):
        ids = torch.tensor([[corpus.policy.start, *corpus.text_tokens(index)]])
        log_probs = dense(ids).logits[0, :-1].double().log_softmax(-1)
        nats -= log_probs.gather(-1, ids[0, 1:, None]).sum().item()
    tally = measure_text(dense, windows(corpus))
    num_bytes = sum(len(text.encode()) for text in sentences("el", 12))
    assert corpus.statistics.bytes == num_bytes
    assert tally.bits_per_byte(num_bytes) == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)
    assert tally.tokens == corpus.statistics.text_tokens
    assert tally.expert0_share is None
    assert routing_table({"el": tally}, GROUPS) is None


@torch.no_grad()
def test_divergence_from_the_base_is_the_slow_one(setup):
    dense, moved, corpus, _ = setup
    slow = 0.0
    for index in range(len(corpus)):
        ids = torch.tensor([[corpus.policy.start, *corpus.text_tokens(index)]])
        base, new = (m(ids).logits[0, :-1].double().log_softmax(-1) for m in (dense, moved))
        slow += (base.exp() * (base - new)).sum().item()
    assert slow > 0.01
    assert measure_text(moved, windows(corpus), with_kl=True).kl_nats == pytest.approx(
        slow, rel=1e-3
    )


def test_a_fresh_upcycle_has_diverged_from_nothing(setup, tmp_path):
    _, _, corpus, _ = setup
    dense = save_dense(tmp_path / "dense", vocab_size=VOCAB_SIZE)
    upcycle(dense, tmp_path / "moe", num_experts=3)
    tally = measure_text(load(tmp_path / "moe"), windows(corpus), with_kl=True)
    assert abs(tally.kl_nats / tally.tokens) < 1e-6


def test_routing_shares_add_up_and_skip_dense_layers(setup):
    _, moved, corpus, _ = setup
    tally = measure_text(moved, windows(corpus))
    table = routing_table({"el": tally}, GROUPS)
    assert table.moe_layers == (0, 2)
    assert table.num_experts == (3, 4)
    for usage in table.usage["el"]:
        assert sum(usage) == pytest.approx(1.0)
    assert all(layer.tokens == corpus.statistics.text_tokens for layer in tally.layers.values())
    assert 0 < tally.expert0_share < 1


@torch.no_grad()
@pytest.mark.parametrize("form", ["token", "sequence"])
def test_choices_are_ranked_by_their_log_probability(setup, tmp_path, form):
    _, moved, _, tokenizer = setup
    if form == "sequence":
        moved = judging_sequences(setup, tmp_path)
    policy = document_policy(tokenizer)
    texts = [
        ("the river", [" runs down", " sell", " bread and fish town", " old"]),
        ("people sell bread", [" fish", " down to", " the old town", " and"]),
        ("the", [" town", " river runs", " people", " where people"]),
    ]
    questions, expected = [], []
    for prompt, choices in texts:
        scores = []
        for choice in choices:
            head = [policy.start, *tokenizer(prompt)["input_ids"]]
            whole = [policy.start, *tokenizer(prompt + choice)["input_ids"]]
            # The last token of a choice predicts nothing that counts.
            log_probs = moved(torch.tensor([whole[:-1]])).logits[0].log_softmax(-1)
            scores.append(
                sum(log_probs[i - 1, whole[i]].item() for i in range(len(head), len(whole)))
            )
        best = max(range(4), key=scores.__getitem__)
        questions += [Question(prompt, tuple(choices), answer) for answer in range(4)]
        expected += [answer == best for answer in range(4)]
    got = answer_questions(moved, tokenizer, questions, policy=policy, batch_tokens=200)
    assert got == expected


def test_measuring_leaves_the_training_mode_as_it_was(setup):
    _, moved, corpus, _ = setup
    moved.train()
    measure_text(moved, windows(corpus))
    assert moved.training
    moved.eval()
