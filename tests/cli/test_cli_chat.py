"""`chat`, `generate` and `serve` as they are typed."""

import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from polycycle.cli import app
from polycycle.inference import Conversation, Sampling, load_speaker, open_model
from tests.cli.test_cli import call
from tests.export.upcycled import save_upcycled
from tests.text import make_tokenizer
from tests.tiny import edit_config, load


@pytest.fixture
def model(tmp_path):
    folder = save_upcycled(tmp_path, "llama", config={"vocab_size": 320})
    wordy = load(folder)
    with torch.no_grad():
        wordy.lm_head.weight[0] = 0  # never the best: it does not end by itself
    wordy.save_pretrained(folder)
    edit_config(folder, language_groups={"original": ["en"], "expanded": [["el", "tr"]]})
    make_tokenizer().save_pretrained(folder)
    return folder


def type_into_chat(model, text, *options):
    arguments = ["chat", str(model), "--max-new-tokens", "5", *options]
    return CliRunner().invoke(app, arguments, input=text)


def answers(model, *turns, reset_after=()):
    sampling = Sampling(max_new_tokens=5)
    talk = Conversation(load_speaker(open_model(model)), sampling, with_template=False)
    found = []
    for number, turn in enumerate(turns, 1):
        found.append(talk.answer(turn).text)
        if number in reset_after:
            talk.reset()
    assert all(found)
    return found


def test_chat_answers_line_by_line_until_the_input_ends(model):
    done = type_into_chat(model, "the river\nthe town", "--temperature", "0")
    assert done.exit_code == 0, done.output
    assert done.stdout == "".join(f"{text}\n" for text in answers(model, "the river", "the town"))


def test_quit_ends_and_reset_begins_anew(model):
    typed = "the river\n\n/reset\nthe river\n/quit\nunread"
    done = type_into_chat(model, typed, "--temperature", "0")
    first, again = answers(model, "the river", "the river", reset_after=(1,))
    assert done.stdout == f"{first}\n{again}\n"
    assert first == again
    assert "begun anew" in done.stderr


def test_a_wrong_command_is_no_question(model):
    done = type_into_chat(model, "/rest\n")
    assert done.stdout == ""
    assert "no command /rest" in done.stderr


def test_chat_says_once_that_there_is_no_template_and_nothing_where_there_is_one(model):
    done = type_into_chat(model, "a\nb\n")
    assert done.stderr.count("has no chat template") == 1
    (model / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert "no chat template" not in type_into_chat(model, "a\n").stderr


def test_a_turn_that_does_not_fit_is_an_error_and_not_the_end(model):
    done = type_into_chat(model, f"{'bread ' * 300}\nthe river\n", "--temperature", "0")
    assert done.exit_code == 0
    assert "/reset" in done.stderr
    assert done.stdout == "".join(f"{text}\n" for text in answers(model, "the river"))


def test_generate_is_greedy_and_writes_the_answer_alone(model):
    done = call("generate", model, "--prompt", "the river", "--max-new-tokens", 5)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{answers(model, 'the river')[0]}\n"


def test_sampling_options_that_would_do_nothing_are_refused(model):
    for option in (("--seed", 3), ("--top-p", 0.5)):
        done = call("generate", model, "--prompt", "x", *option)
        assert done.exit_code == 1
        assert "would change nothing" in done.stderr
    assert call("generate", model, "--prompt", "x", "--layer", 1).exit_code == 1
    assert call("serve", model, "--dtype", "float32").exit_code == 1


def test_a_seed_repeats_an_answer(model):
    options = ("--prompt", "the river", "--temperature", 2, "--max-new-tokens", 12)
    one, same, other = (
        call("generate", model, *options, "--seed", seed).stdout for seed in (1, 1, 2)
    )
    assert one == same != other


def test_show_routing_names_the_groups_and_their_languages(model):
    done = call("generate", model, "--prompt", "the river", "--show-routing")
    assert "⟨G1⟩ new experts (el, tr)" in done.stdout
    assert "⟨0⟩ the original (en)" in done.stdout
    assert "first choices of 3 layers" in done.stdout
    done = call("generate", model, "--prompt", "the river", "--show-routing", "--layer", 1)
    assert re.search(r"⟨G1\.(\d)⟩ expert \1 of group 1 \(el, tr\)", done.stdout)


def test_show_routing_refuses_a_dense_model(tmp_path, model):
    make_tokenizer().save_pretrained(tmp_path / "dense")
    done = call("chat", tmp_path / "dense", "--show-routing")
    assert done.exit_code == 1
    assert "no experts whose languages are known" in done.stderr


def test_serve_prints_the_command(model):
    done = call("serve", model, "--port", 9000)
    assert f"    polycycle serve {model} --run --port 9000\n" in done.stdout


def test_ctrl_c_stops_the_answer_and_not_the_program(model, tmp_path):
    notes = tmp_path / "notes"
    with notes.open("w") as errors:
        chat = subprocess.Popen(
            [sys.executable, "-m", "polycycle", "chat", str(model), "--max-new-tokens", "200"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            bufsize=1,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"},
        )
    chat.stdin.write("the river\n")
    assert chat.stdout.read(1)  # an answer has begun
    chat.send_signal(signal.SIGINT)
    rest, _ = chat.communicate("/quit\n", timeout=300)
    assert chat.returncode == 0, rest
    assert "dropped" not in notes.read_text()
