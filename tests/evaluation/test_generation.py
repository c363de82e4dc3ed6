"""Writing answers: against one prompt at a time without a cache, and scoring them."""

import pytest
import torch
from transformers import GenerationConfig

from polycycle.data import document_policy
from polycycle.errors import DataError
from polycycle.evaluation import complete_prompts, score_completions
from polycycle.modeling import NewExperts
from polycycle.routing import LanguageClassifier, RetentionGate
from polycycle.surgery import upcycle
from tests.text import VOCAB_SIZE, make_tokenizer, sentences
from tests.tiny import load, save_dense

TOKENIZER = make_tokenizer()
POLICY = document_policy(TOKENIZER)
NEWLINE = TOKENIZER("\n")["input_ids"][0]
PROMPTS = [text for language in ("en", "el") for text in sentences(language, 10)]
MOST = 12
MODELS = {
    "dense": None,
    "upcycled": {},
    "judging sequences": {"classifier_layers": [0, 2], "classifier_form": "sequence"},
}


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """Folder of a model whose greedy completions of `PROMPTS` are all different."""
    return save_dense(tmp_path_factory.mktemp("dense"), vocab_size=VOCAB_SIZE)


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def model(request, dense, tmp_path_factory):
    """A model that ends some completions by a newline, some by EOS, and lets some run on."""
    if request.param is None:
        made = load(dense)
    else:
        folder = tmp_path_factory.mktemp("moe")
        upcycle(dense, folder / "moe", num_experts=3, **request.param)
        made = load(folder / "moe")
    torch.manual_seed(1)
    for module in made.modules():
        if isinstance(module, NewExperts):
            module.down_proj.data += 0.1 * torch.randn_like(module.down_proj)
        if isinstance(module, LanguageClassifier):
            module.weight.data = torch.randn_like(module.weight)
    # Whatever it now says fourth, and most often after that, it shall end with.
    tokens = [slowly(made, prompt, ends=()) for prompt in PROMPTS]
    for end, index in ((NEWLINE, 0), (POLICY.eos, 1)):
        swap_rows(made.lm_head.weight, end, tokens[index][3])
    return made


@torch.no_grad()
def swap_rows(weight, one, other):
    weight[[one, other]] = weight[[other, one]]


@torch.no_grad()
def slowly(model, prompt, ends=(POLICY.eos, NEWLINE)):
    """The tokens of a completion, one at a time, each by a pass over everything before it."""
    ids = [POLICY.start, *TOKENIZER(prompt)["input_ids"]]
    written = []
    while len(written) < MOST:
        token = model(torch.tensor([ids + written]), use_cache=False).logits[0, -1].argmax().item()
        if token in ends:
            break
        written.append(token)
    return written


def complete(model, prompts=PROMPTS, **settings):
    settings = {"policy": POLICY, "max_new_tokens": MOST, "batch_tokens": 100, **settings}
    return complete_prompts(model, TOKENIZER, prompts, **settings)


def test_completions_are_those_of_each_prompt_alone(model):
    expected = [slowly(model, prompt) for prompt in PROMPTS]
    lengths = {len(tokens) for tokens in expected}
    assert MOST in lengths  # some run on
    assert len(lengths) > 2  # others end, and not all at once
    assert len({tuple(tokens) for tokens in expected}) > len(PROMPTS) / 2
    texts = [TOKENIZER.decode(tokens) for tokens in expected]
    for batch_tokens in (1, 100, 10_000):
        assert complete(model, batch_tokens=batch_tokens) == texts
    assert complete(model, PROMPTS[::-1]) == texts[::-1]


def test_a_retention_gate_judges_each_prompt_by_itself(dense, tmp_path):
    upcycle(dense, tmp_path / "moe", num_experts=3, exact_retention=True)
    model = load(tmp_path / "moe")
    (gate,) = [module for module in model.modules() if isinstance(module, RetentionGate)]
    gate.weight.data = torch.randn_like(gate.weight)
    for module in model.modules():
        if isinstance(module, NewExperts):
            module.down_proj.data += 0.1 * torch.randn_like(module.down_proj)
    alone = [complete(model, [prompt])[0] for prompt in PROMPTS]
    kept = sum(one == other for one, other in zip(alone, complete(load(dense)), strict=True))
    assert 3 < kept < len(PROMPTS) - 3
    assert complete(model, batch_tokens=10_000) == alone


@pytest.mark.parametrize("end", ["\n", "<eos>"])
def test_a_completion_ends_before_the_first_end(dense, end):
    model = load(dense)
    prompt = PROMPTS[0]
    said = slowly(model, prompt, ends=())
    assert said[4] not in said[:4]
    swap_rows(
        model.lm_head.weight, said[4], TOKENIZER.convert_tokens_to_ids(end.replace("\n", "Ċ"))
    )
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    assert complete(model, [prompt]) == [TOKENIZER.decode(said[:4])]
    assert len(calls) == 5  # nothing is computed that is thrown away


def test_a_fresh_upcycle_writes_what_the_dense_model_writes(dense, tmp_path):
    upcycle(dense, tmp_path / "moe", num_experts=4)
    assert complete(load(tmp_path / "moe")) == complete(load(dense))


def test_a_models_own_generation_settings_are_not_used_and_come_back(dense):
    model = load(dense)
    expected = complete(model)
    own = GenerationConfig(repetition_penalty=9.0, do_sample=True, temperature=5.0)
    model.generation_config = own
    model.train()
    assert complete(model) == expected
    assert model.generation_config is own
    assert model.training


def test_the_end_tokens_of_the_model_and_of_its_tokenizer_end_a_completion_too(dense):
    model, tokenizer, prompt = load(dense), make_tokenizer(), PROMPTS[0]
    said = slowly(model, prompt, ends=())
    assert said[4] not in said[:4]
    assert complete(model, [prompt]) != [TOKENIZER.decode(said[:4])]
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(said[4])
    written = complete_prompts(model, tokenizer, [prompt], policy=POLICY, max_new_tokens=MOST)
    assert written == [TOKENIZER.decode(said[:4])]
    model.generation_config = GenerationConfig(eos_token_id=[POLICY.eos, said[4]])
    assert complete(model, [prompt]) == written


def test_with_a_template_a_prompt_is_a_users_message(dense):
    model, tokenizer = load(dense), make_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<eos>{{ m.role }}: {{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %} bot:{% endif %}"
    )
    how = {"policy": POLICY, "max_new_tokens": MOST, "with_template": True}
    written = complete_prompts(model, tokenizer, PROMPTS, **how)
    assert written == complete(model, [f"user: {prompt} bot:" for prompt in PROMPTS])
    assert written != complete(model)
    tokenizer.chat_template = "{{ raise_exception('no users here') }}"
    with pytest.raises(DataError, match=r"refuses the prompt '.*': no users here"):
        complete_prompts(model, tokenizer, PROMPTS[:1], **how)


def test_an_answer_to_a_chat_template_may_begin_with_newlines(dense):
    model, tokenizer, prompt = load(dense), make_tokenizer(), PROMPTS[0]
    tokenizer.chat_template = "<eos>{% for m in messages %}{{ m.content }}{% endfor %}"
    swap_rows(model.lm_head.weight, NEWLINE, slowly(model, prompt, ends=())[0])
    said = TOKENIZER.decode(slowly(model, prompt, ends=()))
    assert said.startswith("\n")
    assert complete(model, [prompt]) == [""]
    how = {"policy": POLICY, "max_new_tokens": MOST, "with_template": True}
    (written,) = complete_prompts(model, tokenizer, [prompt], **how)
    assert written
    assert written == said.lstrip("\n").split("\n", 1)[0]


def test_exact_match_forgives_white_space_and_composition_and_nothing_else():
    pairs = [
        (" Η Σάρα μένει στην Αθήνα.", "Η Σάρα μένει στην Αθήνα. "),
        ("re\u0301ponse", "r\u00e9ponse"),
        ("the town", "The town"),
        ("the  town", "the town"),
    ]
    score = score_completions(*zip(*pairs, strict=True))
    assert score.examples == 4
    assert score.exact_match == 0.5


def test_chrf_is_of_characters_over_the_whole_corpus():
    assert score_completions(["the old town", "e\u0301"], ["the old town", "é"]).chrf == 100
    assert score_completions([""], ["the old town"]).chrf == 0
    assert score_completions(["xyz"], ["the old town"]).chrf == 0
    near, far = (score_completions([text], ["the old town"]).chrf for text in ("the old", "old"))
    assert 0 < far < near < 100
    # By hand, n-grams of 1 to 6 without spaces, of "thecat" against "thecats": all are right, and
    # of each length one more should be there.
    recall = sum([6 / 7, 5 / 6, 4 / 5, 3 / 4, 2 / 3, 1 / 2]) / 6
    by_hand = 100 * 5 * recall / (4 + recall)
    assert score_completions(["the cat"], ["the cats"]).chrf == pytest.approx(by_hand)
    # Over the corpus, not the mean of two answers.
    assert score_completions(["the old town", "x"], ["the old town", "y"]).chrf > 60


def test_as_many_completions_as_references_are_wanted():
    with pytest.raises(ValueError, match="zip"):
        score_completions(["a"], ["a", "b"])


def test_being_in_form_is_counted_apart_from_being_right_and_only_where_a_form_is_asked_for():
    form = r"\([^()]+\)"
    written = ["(Athens)", "(Rome)", "Athens", "(Athens) (Rome)", "Athens"]
    score = score_completions(written, ["(Athens)"] * 5, forms=[form] * 4 + [None])
    assert score.exact_match == 1 / 5
    assert score.in_form == 2 / 4
    assert score_completions(written, ["(Athens)"] * 5).in_form is None
    with pytest.raises(ValueError, match="zip"):
        score_completions(written, ["(Athens)"] * 5, forms=[form])
