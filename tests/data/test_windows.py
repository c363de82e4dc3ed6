import pytest
import torch

from polycycle.data import IGNORED_LABEL, evaluation_windows, mixed_windows
from tests.data.corpora import ENGLISH, corpus_of
from tests.data.test_packing import tiny_llama

LONG = " ".join(ENGLISH * 10)


@pytest.mark.parametrize("context_length", [8, 9, 64, 4096])
@pytest.mark.parametrize("batch_tokens", [1, 100, 8192])
def test_each_text_token_is_scored_exactly_once(tmp_path, context_length, batch_tokens):
    corpus = corpus_of(tmp_path, [LONG, *ENGLISH, "x"])
    scored = []
    for batch in evaluation_windows(
        corpus, context_length=context_length, batch_tokens=batch_tokens
    ):
        assert batch.input_ids.shape[1] <= context_length
        assert not (batch.targets[~batch.is_real] != IGNORED_LABEL).any()
        scored += batch.targets[batch.targets != IGNORED_LABEL].tolist()
    wanted = [t for i in range(len(corpus)) for t in corpus.text_tokens(i).tolist()]
    assert sorted(scored) == sorted(wanted)


def test_after_the_first_window_a_token_has_half_a_window_of_context(tmp_path):
    corpus = corpus_of(tmp_path, [LONG])
    windows = [
        targets[real]
        for batch in evaluation_windows(corpus, context_length=16)
        for targets, real in zip(batch.targets, batch.is_real, strict=True)
    ]
    first_scored = [int((targets != IGNORED_LABEL).nonzero()[0]) for targets in windows]
    assert sorted(first_scored)[0] == 0
    assert all(first >= 8 for first in sorted(first_scored)[1:])


@torch.no_grad()
def test_window_scores_of_short_documents_equal_scores_of_each_alone(tmp_path):
    corpus = corpus_of(tmp_path, ENGLISH)
    model = tiny_llama()
    model.resize_token_embeddings(512)
    together = 0.0
    for batch in evaluation_windows(corpus, context_length=64):
        logits = model(batch.input_ids, use_cache=False).logits
        together += torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.targets.flatten(), reduction="sum"
        ).item()
    alone = 0.0
    for index in range(len(corpus)):
        ids = torch.tensor([[corpus.policy.start, *corpus.text_tokens(index)]])
        log_probs = model(ids, use_cache=False).logits[0, :-1].log_softmax(-1)
        alone -= log_probs.gather(1, ids[0, 1:, None]).sum().item()
    assert together == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("context_length", [7, 256])
def test_mixed_text_is_the_first_half_of_one_document_and_the_last_of_another(
    tmp_path, context_length
):
    first, second = corpus_of(tmp_path, ENGLISH), corpus_of(tmp_path, [LONG, "x", *ENGLISH])
    batches = list(
        mixed_windows(first, second, context_length=context_length, num_texts=3, batch_tokens=300)
    )
    longest = (context_length - 1) // 2
    wanted = []
    for index in range(3):
        head, tail = (corpus.text_tokens(index).tolist() for corpus in (first, second))
        head, tail = head[: (len(head) + 1) // 2], tail[len(tail) // 2 :]
        wanted.append([first.policy.start, *head[:longest], *tail[:longest]])
    found = []
    for batch in batches:
        assert batch.input_ids.shape[1] <= context_length
        for ids, targets, real in zip(batch.input_ids, batch.targets, batch.is_real, strict=True):
            found.append([*ids[real].tolist(), targets[real][-1].item()])
    assert sorted(found) == sorted(wanted)
