"""`polycycle chat` and `polycycle generate`: a model writes, in the terminal."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polycycle.cli.app import err, out, tell, verb
from polycycle.errors import ConfigError, DataError

if TYPE_CHECKING:
    from polycycle.inference import Answer, Conversation, Sampling

_HELP = "/reset begins anew, /quit or Ctrl-D ends, Ctrl-C stops an answer"

Model = Annotated[
    str, typer.Argument(help="An upcycled model, a dense one or an export: a folder or a hub id.")
]
TopP = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        help="Sample from the most probable tokens that together have this probability; all "
        "by default.",
    ),
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.")]
Seed = Annotated[int | None, typer.Option(help="Makes what is sampled the same again.")]
Dtype = Annotated[
    str,
    typer.Option(
        help="float32, bfloat16, float16, or auto: the weights' own on a GPU, float32 on a CPU."
    ),
]
Device = Annotated[str, typer.Option(help="auto (a GPU where there is one), cpu, cuda, cuda:1 …")]
Revision = Annotated[str | None, typer.Option(help="Commit, branch or tag of a hub id.")]
ShowRouting = Annotated[
    bool,
    typer.Option(
        "--show-routing", help="After each answer, show which experts its tokens used, in colours."
    ),
]
Layer = Annotated[
    int | None,
    typer.Option(min=0, help="With --show-routing: the experts of this layer, instead of all."),
]


@verb("chat", "Using a model")
def chat(
    model: Model,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 always takes the most probable token.")
    ] = 0.7,
    top_p: TopP = None,
    max_new_tokens: MaxNewTokens = 512,
    seed: Seed = None,
    show_routing: ShowRouting = False,
    layer: Layer = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    revision: Revision = None,
) -> None:
    """Talk to a model in the terminal.

    Turns go through the tokenizer's chat template. Where it has none, the model goes on from all
    that was written before. `/reset` begins anew, `/quit` or the end of the input ends, Ctrl-C
    stops the answer and not the program.

        polycycle chat runs/greek-and-hungarian/review --show-routing
    """
    from polycycle.inference import has_template

    talk = _conversation(
        model,
        _sampling(temperature, top_p, max_new_tokens, seed),
        with_template=None,
        with_trace=_is_traced(show_routing, layer),
        dtype=dtype,
        device=device,
        revision=revision,
    )
    if not has_template(talk.speaker):
        tell(
            "note: the tokenizer has no chat template, so nothing says how this model was taught "
            "to answer; it goes on from what you write"
        )
    tell(_HELP)
    for line in _lines():
        if line == "/quit":
            return
        if line == "/reset":
            talk.reset()
            tell("begun anew")
        elif line.startswith("/"):
            tell(f"no command {line}; {_HELP}")
        else:
            try:
                _show(talk, _answer(talk, line), layer)
            except (ConfigError, DataError) as error:
                err.print(f"{type(error).__name__}: {error}", style="red")
            except KeyboardInterrupt:
                tell("\nthis turn was dropped")


@verb("generate", "Using a model")
def generate(
    model: Model,
    prompt: Annotated[str, typer.Option(help="The text to go on from.")],
    as_chat: Annotated[
        bool,
        typer.Option(
            "--chat", help="Put the prompt as a question, through the tokenizer's chat template."
        ),
    ] = False,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 always takes the most probable token.")
    ] = 0.0,
    top_p: TopP = None,
    max_new_tokens: MaxNewTokens = 128,
    seed: Seed = None,
    show_routing: ShowRouting = False,
    layer: Layer = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    revision: Revision = None,
) -> None:
    """Write what a model adds to a text, word by word.

    It always takes the most probable token, unless a temperature is given.

        polycycle generate runs/greek-and-hungarian/review --prompt "Η Αθήνα είναι"
    """
    talk = _conversation(
        model,
        _sampling(temperature, top_p, max_new_tokens, seed),
        with_template=as_chat,
        with_trace=_is_traced(show_routing, layer),
        dtype=dtype,
        device=device,
        revision=revision,
    )
    _show(talk, _answer(talk, prompt), layer)


def _sampling(
    temperature: float, top_p: float | None, max_new_tokens: int, seed: int | None
) -> "Sampling":
    from polycycle.inference import Sampling

    if temperature == 0:
        for name, value in (("--top-p", top_p), ("--seed", seed)):
            if value is not None:
                raise ConfigError(
                    f"{name} {value} would change nothing: without a temperature nothing is "
                    "sampled. Say --temperature 0.7, for example"
                )
    if top_p == 0:
        raise ConfigError("--top-p 0 leaves no token to choose; for the best one: --temperature 0")
    return Sampling(
        temperature=temperature,
        top_p=1.0 if top_p is None else top_p,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )


def _is_traced(show_routing: bool, layer: int | None) -> bool:
    if layer is not None and not show_routing:
        raise ConfigError(f"--layer {layer} is for --show-routing; say both")
    return show_routing


def _conversation(
    model: str,
    sampling: "Sampling",
    *,
    with_template: bool | None,
    with_trace: bool,
    dtype: str,
    device: str,
    revision: str | None,
) -> "Conversation":
    from polycycle.inference import (
        Conversation,
        has_template,
        load_speaker,
        open_model,
        refuse_unwatchable,
    )

    checkpoint = open_model(model, revision=revision)
    if with_trace:
        refuse_unwatchable(checkpoint)  # before the weights are read
    speaker = load_speaker(checkpoint, dtype=dtype, device=device)
    if with_template is None:
        with_template = has_template(speaker)
    return Conversation(speaker, sampling, with_template=with_template, with_trace=with_trace)


def _answer(talk: "Conversation", text: str) -> "Answer":
    """The answer, written as it comes; Ctrl-C ends it after the token under way."""
    with _stop_on_interrupt() as stop:
        answer = talk.answer(text, emit=_write, is_stopped=stop.is_set)
    _write("\n")
    return answer


def _write(text: str) -> None:
    typer.echo(text, nl=False)


def _show(talk: "Conversation", answer: "Answer", layer: int | None) -> None:
    if answer.trace is None:
        return
    from polycycle.inference import languages_of_groups, paint_routing

    languages = languages_of_groups(talk.speaker.checkpoint)
    has_colour = out.color_system is not None
    out.print(paint_routing(answer.trace, languages, layer=layer, with_colour=has_colour))


def _lines() -> Iterator[str]:
    """What the user types, line by line; Ctrl-C drops a line."""
    is_typed = sys.stdin.isatty()
    if is_typed:
        import readline  # noqa: F401  # arrow keys and history
    while True:
        try:
            line = input("> " if is_typed else "").strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            tell(f"\n{_HELP}")
            continue
        if line:
            yield line


@contextmanager
def _stop_on_interrupt() -> Iterator[Event]:
    """Within the block the first Ctrl-C sets the event; the second interrupts as usual."""
    stop = Event()

    def on_interrupt(number: int, frame: Any) -> None:
        stop.set()
        signal.signal(signal.SIGINT, usual)

    usual = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, usual)
