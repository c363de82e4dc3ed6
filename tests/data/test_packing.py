import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

from polycycle.data import (
    IGNORED_LABEL,
    CorpusStatistics,
    DocumentPolicy,
    JoinedDataset,
    PackedDataset,
    Skipped,
    TokenizedCorpus,
    collate,
    packed_model_inputs,
    share_tokens,
)
from polycycle.errors import DataError
from polycycle.languages import NO_LANGUAGE
from tests.data.corpora import ENGLISH, corpus_of

IDS = {"en": 0, "el": 1, "tr": 2}
PAD = 0


def corpus_in_memory(folder, language, lengths, first):
    """Documents of these lengths whose tokens count up from `first`, so that each is unique."""
    tokens = np.arange(first, first + sum(lengths), dtype=np.int32)
    zeros = np.zeros(len(lengths), np.int64)
    return TokenizedCorpus(
        folder=folder,
        language=language,
        tokens=tokens,
        ends=np.cumsum(lengths),
        text_bytes=zeros,
        text_hashes=zeros.astype(np.uint64),
        files=("memory",),
        places=np.zeros((len(lengths), 2), np.int64),
        policy=DocumentPolicy(bos=None, eos=PAD),
        statistics=CorpusStatistics(
            documents=len(lengths),
            tokens=sum(lengths),
            text_tokens=sum(lengths),
            bytes=sum(lengths),
            words=1,
            unknown_tokens=0,
            fallback_tokens=0,
        ),
        skipped=Skipped(),
    )


def three(folder, of=None):
    """Three corpora whose tokens say their language: en 1000…, el 2000…, tr 3000…."""
    of = of or {"en": [5, 9, 30], "el": [7] * 6, "tr": [1, 2, 40, 3]}
    return {
        language: corpus_in_memory(folder, language, lengths, 1000 * (IDS[language] + 1))
        for language, lengths in of.items()
    }


def packed(corpora, budgets=None, **changed):
    budgets = budgets or {name: one.statistics.tokens for name, one in corpora.items()}
    choices = {"sequence_length": 16, "seed": 3, "pad_token": PAD}
    return PackedDataset(corpora, budgets, IDS, **{**choices, **changed})


def stacked(dataset):
    return {name: value.flatten() for name, value in collate(list(dataset)).items()}


LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=12)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    of=st.fixed_dictionaries(dict.fromkeys(IDS, LENGTHS)),
    length=st.integers(8, 40),
    seed=st.integers(0, 99),
    packing=st.sampled_from(["documents", "concatenate"]),
)
def test_every_token_appears_exactly_once_with_its_language(tmp_path, of, length, seed, packing):
    dataset = packed(three(tmp_path, of), sequence_length=length, seed=seed, packing=packing)
    items = [dataset[index] for index in range(len(dataset))]
    assert all(v.shape == (length,) and v.dtype == torch.int64 for i in items for v in i.values())
    all_of = {name: torch.cat([item[name] for item in items]) for name in items[0]}
    real = all_of["language_ids"] != NO_LANGUAGE
    wanted = [1000 * (n + 1) + k for name, n in IDS.items() for k in range(sum(of[name]))]
    assert sorted(all_of["input_ids"][real].tolist()) == wanted
    assert (all_of["input_ids"][real] // 1000 - 1 == all_of["language_ids"][real]).all()
    assert (all_of["labels"][~real] == IGNORED_LABEL).all()
    assert (all_of["input_ids"][~real] == PAD).all()
    assert (~real).sum() < length


def test_positions_restart_and_labels_are_masked_at_each_document_piece(tmp_path):
    dataset = packed(three(tmp_path))
    starts = {
        1000 * (IDS[name] + 1) + int(end)
        for name, one in three(tmp_path).items()
        for end in (0, *one.ends)
    }
    for item in dataset:
        for index, token in enumerate(item["input_ids"].tolist()):
            begins = index == 0 or token in starts or token == PAD != item["input_ids"][index - 1]
            assert (item["position_ids"][index] == 0) == begins
            if token != PAD:
                assert item["labels"][index] == (IGNORED_LABEL if begins else token)
        steps = [b - a for a, b in pairwise(item["position_ids"].tolist()) if b]
        assert set(steps) <= {1}


def test_plain_concatenation_runs_positions_through_and_keeps_all_labels(tmp_path):
    for item in packed(three(tmp_path), packing="concatenate"):
        assert item["position_ids"].tolist() == list(range(16))
        real = item["language_ids"] != NO_LANGUAGE
        assert (item["labels"][real] == item["input_ids"][real]).all()


def test_items_do_not_depend_on_order_process_or_instance(tmp_path):
    corpora = {
        "en": corpus_of(tmp_path, ENGLISH * 5, "en"),
        "el": corpus_of(tmp_path, ["γεια σου"] * 20, "el"),
    }
    dataset = packed(corpora)
    again = pickle.loads(pickle.dumps(packed(corpora)))
    backwards = [again[index] for index in reversed(range(len(again)))][::-1]
    worked = list(
        DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    )
    for item, one, other in zip(dataset, backwards, worked, strict=True):
        for name in item:
            assert torch.equal(item[name], one[name])
            assert torch.equal(item[name], other[name])
    other_seed = stacked(packed(corpora, seed=4))["input_ids"]
    assert not torch.equal(stacked(dataset)["input_ids"], other_seed)


def test_budgets_are_met_to_the_token_and_summed_up(tmp_path):
    corpora = three(tmp_path, {name: [10] * 40 for name in IDS})
    dataset = packed(corpora, share_tokens(300, {"en": 1, "el": 2, "tr": 3}))
    language_ids = stacked(dataset)["language_ids"]
    assert torch.bincount(language_ids[language_ids >= 0]).tolist() == [50, 100, 150]
    use = dataset.summary()["el"]
    assert (use.documents, use.tokens, use.epochs) == (10, 100, 0.25)


def test_sequences_mix_languages(tmp_path):
    corpora = three(tmp_path, {name: [4] * 100 for name in IDS})
    mixed = [len(item["language_ids"].unique()) > 1 for item in packed(corpora)]
    assert sum(mixed) > 0.8 * len(mixed)


def test_repeats_need_leave_and_are_shuffled_anew(tmp_path):
    corpora = three(tmp_path, {"en": [4] * 30})
    with pytest.raises(DataError, match=r"asks for 300 tokens but the corpus has 120.*repeat"):
        packed(corpora, {"en": 300})
    dataset = packed(corpora, {"en": 300}, repeat=True)
    assert dataset.summary()["en"].epochs == 2.5
    tokens = stacked(dataset)["input_ids"]
    counts = torch.bincount(tokens[tokens != PAD])[1000:]
    assert set(counts.tolist()) == {2, 3}


@pytest.mark.parametrize(
    ("budgets", "problem"),
    [({"en": 0}, "budget of 0"), ({"hu": 5}, "'hu' has a token budget but no corpus")],
)
def test_a_budget_that_cannot_be_met_is_refused(tmp_path, budgets, problem):
    with pytest.raises(DataError, match=problem):
        packed(three(tmp_path), budgets)


@given(st.integers(1, 10**12), st.lists(st.floats(0.01, 100), min_size=1, max_size=9))
def test_shares_sum_to_the_total_and_follow_the_weights(total, weights):
    shares = share_tokens(total, {str(n): weight for n, weight in enumerate(weights)})
    assert sum(shares.values()) == total
    for share, weight in zip(shares.values(), weights, strict=True):
        assert abs(share - total * weight / sum(weights)) <= 1 + 1e-9 * total


def test_an_index_beyond_the_end_is_an_index_error(tmp_path):
    dataset = packed(three(tmp_path))
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def tiny_llama():
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def test_packed_logits_equal_separate_logits(tmp_path):
    lengths = [5, 1, 9, 12, 3, 20]
    corpus = corpus_in_memory(tmp_path, "en", lengths, 1)
    batch = collate(list(packed({"en": corpus}, {"en": 50}, sequence_length=16)))
    model = tiny_llama()
    logits = model(**packed_model_inputs(batch)).logits
    num_compared = 0
    for row, positions in enumerate(batch["position_ids"]):
        begins = [*torch.nonzero(positions == 0).flatten().tolist(), len(positions)]
        for begin, end in pairwise(begins):
            alone = model(batch["input_ids"][row : row + 1, begin:end], use_cache=False).logits
            torch.testing.assert_close(logits[row, begin:end], alone[0], rtol=0, atol=1e-5)
            num_compared += 1
    assert num_compared > len(lengths)


def test_a_packed_batch_with_an_attention_mask_is_refused(tmp_path):
    batch = collate([packed(three(tmp_path))[0]])
    assert set(packed_model_inputs(batch)) == {"input_ids", "position_ids", "use_cache"}
    assert packed_model_inputs(batch)["use_cache"] is False
    with pytest.raises(ValueError, match="must not carry an attention_mask"):
        packed_model_inputs({**batch, "attention_mask": torch.ones(1, 16)})


def test_joined_datasets_give_every_sequence_once_in_an_order_of_their_own(tmp_path):
    parts = [packed(three(tmp_path)), packed(three(tmp_path, {"en": [70], "tr": [9]}))]
    joined = JoinedDataset(parts, seed=5)
    assert joined.num_tokens == sum(part.num_tokens for part in parts)
    rows = [joined[index]["input_ids"].tolist() for index in range(len(joined))]
    alone = [item["input_ids"].tolist() for part in parts for item in part]
    assert sorted(rows) == sorted(alone)
    assert rows != alone
    assert rows == [item["input_ids"].tolist() for item in JoinedDataset(parts, seed=5)]
    with pytest.raises(ValueError, match="one length"):
        JoinedDataset([packed(three(tmp_path)), packed(three(tmp_path), sequence_length=8)], 0)
