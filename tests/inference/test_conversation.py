"""Conversations: what is cached changes nothing, and traces say what the routers did."""

import pytest
import torch
from transformers import GenerationConfig

from polycycle.errors import CheckpointError, ConfigError, DataError
from polycycle.export import export
from polycycle.inference import Conversation, Sampling, load_speaker, open_model, refuse_unwatchable
from polycycle.inference.trace import ORIGINAL, ExpertName, text_pieces
from polycycle.modeling import record_routing
from tests.export.upcycled import save_upcycled
from tests.text import WORDS, make_tokenizer
from tests.tiny import edit_config, load, save_dense

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% if m.role == 'assistant' %}<eos>"
    "{% endif %}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
SHORT = Sampling(max_new_tokens=6)


def make_dense(folder, family="llama"):
    return save_dense(folder / "dense", family, vocab_size=320)


def make_moe(folder, family="llama", **settings):
    settings = {"num_experts": [1, 4, 3], **settings}
    return save_upcycled(folder, family, config={"vocab_size": 320}, **settings)


CASES = {
    "dense": make_dense,
    "moe": make_moe,
    "sliding window": lambda folder: make_moe(folder, "gemma2"),
    "classifiers": lambda folder: make_moe(folder, classifier_layers=(1, 2)),
    "sequence classifier": lambda folder: make_moe(
        folder, classifier_layers=(1,), classifier_form="sequence"
    ),
    "exact retention": lambda folder: make_moe(folder, exact_retention=True),
}


def speaker_of(folder, template=None):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return load_speaker(open_model(folder))


def talk_to(folder, *, template=None, sampling=SHORT, **settings):
    speaker = speaker_of(folder, template)
    return Conversation(speaker, sampling, with_template=template is not None, **settings)


def written_anew(model, prompt):
    """What the model itself writes greedily after a prompt, with nothing kept from before."""
    model.generation_config = GenerationConfig(
        max_new_tokens=6,
        eos_token_id=0,
        pad_token_id=1,
        use_cache=model.config.to_dict().get("classifier_form", "token") == "token",
    )
    return model.generate(torch.tensor([prompt]))[0].tolist()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("template", [None, TEMPLATE], ids=["plain", "template"])
def test_three_turns_are_what_reading_everything_anew_gives(case, template, tmp_path):
    folder = CASES[case](tmp_path)
    talk = talk_to(folder, template=template)
    model, tokenizer = load(folder, torch.float32), talk.speaker.tokenizer
    messages, ids = [], []
    for question in ("the river runs", "το ποτάμι", "nehir akar"):
        answer = talk.answer(question)
        messages.append({"role": "user", "content": question})
        if template:
            prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
            prompt = list(prompt["input_ids"])
        else:
            start = [0] if not ids else []
            line = question if not ids or ids[-1] == 0 else f"\n{question}"
            prompt = [*ids, *start, *tokenizer(line).input_ids]
        ids = written_anew(model, prompt)
        expected = tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)
        assert answer.text == expected
        assert answer.num_tokens == len(ids) - len(prompt)
        messages.append({"role": "assistant", "content": expected})


def test_the_second_turn_reads_only_what_is_new(tmp_path):
    talk = talk_to(make_moe(tmp_path))
    read = []
    talk.speaker.model.model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    first = talk.answer("the river")
    del read[:]
    talk.answer("old town")
    line = "old town" if first.ending == "end" else "\nold town"
    assert read[0] == len(talk.speaker.tokenizer(line).input_ids) + 1


def test_a_model_with_a_retention_gate_judges_every_prompt_as_a_whole(tmp_path):
    talk = talk_to(make_moe(tmp_path, exact_retention=True))
    first = talk.answer("the river")
    read = []
    talk.speaker.model.model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    talk.answer("old town")
    assert read[0] > first.num_tokens + 1  # judged
    assert read[1] == read[0]  # and read


def test_pieces_are_the_answer_and_come_before_its_end(tmp_path):
    talk = talk_to(make_dense(tmp_path), sampling=Sampling(max_new_tokens=30))
    pieces = []
    answer = talk.answer("the river", emit=pieces.append)
    assert "".join(pieces) == answer.text


def test_a_stopped_answer_is_kept_and_the_conversation_goes_on(tmp_path):
    folder = make_dense(tmp_path)
    talk = talk_to(folder)
    whole = talk.answer("the river")
    talk.reset()
    asked = iter([False, True, True])
    answer = talk.answer("the river", is_stopped=lambda: next(asked))
    assert (answer.ending, answer.num_tokens) == ("stopped", 2)
    assert whole.text.startswith(answer.text.rstrip("\ufffd"))
    assert talk.answer("old town").ending in ("length", "end")


def test_an_exception_leaves_the_conversation_as_it_was(tmp_path):
    folder = make_moe(tmp_path)
    talk = talk_to(folder)
    talk.answer("the river")

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        talk.answer("lost", is_stopped=interrupt)
    after = talk.answer("old town").text
    talk.reset()
    talk.answer("the river")
    assert talk.answer("old town").text == after


def test_a_seed_makes_what_is_sampled_the_same_again(tmp_path):
    sampling = Sampling(temperature=1.5, top_p=0.95, max_new_tokens=12, seed=3)
    talk = talk_to(make_dense(tmp_path), sampling=sampling)
    first = talk.answer("the river").text
    second = talk.answer("the river").text
    talk.reset()
    assert [talk.answer("the river").text for _ in range(2)] == [first, second]
    other = talk_to(tmp_path / "dense", sampling=Sampling(temperature=1.5, max_new_tokens=12))
    torch.manual_seed(9)
    assert other.answer("the river").text != first


def test_the_models_own_penalties_and_length_do_not_count(tmp_path):
    folder = make_dense(tmp_path)
    usual = talk_to(folder).answer("the river").text
    talk = talk_to(folder)
    talk.speaker.model.generation_config.repetition_penalty = 9.0
    talk.speaker.model.generation_config.max_new_tokens = 1
    assert talk.answer("the river").text == usual


def test_a_full_context_is_refused_and_a_nearly_full_one_shortens_the_answer(tmp_path):
    talk = talk_to(
        save_dense(tmp_path / "dense", vocab_size=320, max_position_embeddings=16),
        sampling=Sampling(max_new_tokens=100),
    )
    answer = talk.answer("the")
    assert answer.ending in ("length", "end")
    assert answer.num_tokens < 16
    with pytest.raises(ConfigError, match="positions for 16; begin anew"):
        talk.answer("the river runs down to the old town where people sell bread")


def test_a_template_that_refuses_says_why(tmp_path):
    talk = talk_to(make_dense(tmp_path), template="{{ raise_exception('system first') }}")
    with pytest.raises(DataError, match="refuses this conversation: system first"):
        talk.answer("hello")


def test_a_template_is_asked_for_only_where_there_is_one(tmp_path):
    with pytest.raises(ConfigError, match="has no chat template"):
        Conversation(speaker_of(make_dense(tmp_path)), SHORT, with_template=True)


def test_a_folder_without_a_tokenizer_says_what_to_copy(tmp_path):
    for folder in (make_dense(tmp_path), make_moe(tmp_path)):
        with pytest.raises(CheckpointError, match=r"no usable tokenizer .* Copy tokenizer\.json"):
            load_speaker(open_model(folder))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"dtype": "half"}, "choose one of"), ({"device": "tpu9"}, "cannot be used here")],
)
def test_a_wrong_dtype_or_device_is_refused(settings, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        load_speaker(open_model(make_dense(tmp_path)), **settings)


@pytest.mark.parametrize("case", ["moe", "classifiers", "sequence classifier"])
@pytest.mark.parametrize("template", [None, TEMPLATE], ids=["plain", "template"])
def test_a_trace_is_what_the_routers_do_with_the_whole_text(case, template, tmp_path):
    folder = CASES[case](tmp_path)
    talk = talk_to(folder, template=template, with_trace=True)
    talk.answer("the river")
    before = len(talk._ids)
    answer = talk.answer("το ποτάμι")
    ids = talk._ids
    with torch.no_grad(), record_routing(talk.speaker.model) as record:
        talk.speaker.model(torch.tensor([ids[:-1]]), use_cache=False)
    assert answer.trace.layers == (1, 2)
    first = len(ids) - answer.num_tokens if template else before
    shown = [i for i in range(first, len(ids)) if ids[i] not in (0, 1)]
    assert len(shown) == len(answer.trace.tokens)
    for i, token in zip(shown, answer.trace.tokens, strict=True):
        if i == len(ids) - 1:
            assert token.experts is None
            continue
        chosen = [int(layer.expert_ids[i, 0]) for layer in record.layers]
        assert token.experts == tuple(
            ORIGINAL if expert == 0 else ExpertName(1, expert) for expert in chosen
        )
    text = "".join(token.text for token in answer.trace.tokens)
    # What random bytes are no character is a matter of where one begins to read.
    assert text.replace("\ufffd", "").endswith(answer.text.replace("\ufffd", ""))


def test_a_text_that_the_gate_judges_original_used_the_original_alone(tmp_path):
    folder = make_moe(tmp_path, exact_retention=True)
    edit_config(folder, retention_threshold=-1e9)
    answer = talk_to(folder, with_trace=True).answer("the river")
    assert answer.trace.shares() == {ORIGINAL: 1.0}


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {"num_experts": [1, 4, 4], "target": "mixtral"}),
        ("llama", {"num_experts": [1, 4, 3], "target": "ernie4_5_moe"}),
        ("llama", {"num_experts": 4, "classifier_layers": (0, 1, 2), "target": "qwen2_moe"}),
        ("qwen3", {"num_experts": [1, 4, 4], "target": "qwen3_moe"}),
        ("olmo2", {"num_experts": [1, 4, 4], "target": "flex_olmo"}),
    ],
)
def test_the_trace_of_an_export_is_its_models(family, settings, tmp_path):
    target = settings.pop("target")
    folder = make_moe(tmp_path, family, **settings)
    talk = talk_to(folder, with_trace=True)
    export(folder, tmp_path / "out", target=target, with_verification=False)
    exported = talk_to(tmp_path / "out", with_trace=True)
    for text in ("the river", "το ποτάμι"):
        assert exported.answer(text).trace == talk.answer(text).trace


def test_what_has_no_experts_to_choose_from_is_not_traced(tmp_path):
    with pytest.raises(ConfigError, match="no model of polycycle and no export"):
        refuse_unwatchable(open_model(make_dense(tmp_path)))


def test_an_export_of_an_earlier_polycycle_is_to_be_made_anew(tmp_path):
    export(make_moe(tmp_path, num_experts=4), tmp_path / "out", with_verification=False)
    record = tmp_path / "out" / "polycycle_export.json"
    record.write_text(record.read_text().replace('"slots"', '"nothing"'))
    with pytest.raises(ConfigError, match=r"earlier polycycle\. Export .* again"):
        refuse_unwatchable(open_model(tmp_path / "out"))


@pytest.mark.parametrize("text", [*map(" ".join, WORDS.values()), "ελ–中文 नमस्ते 🙂 end", ""])
def test_pieces_of_tokens_add_up_to_the_text(text):
    tokenizer = make_tokenizer()
    ids = tokenizer(text).input_ids
    pieces = text_pieces(tokenizer, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)
