"""`polycycle microworld`: the built-in world as files, its base, and post-trained siblings."""

from pathlib import Path
from typing import Annotated

import typer

from polycycle.cli.app import refuse_existing, tell, verb
from polycycle.errors import ConfigError


@verb("microworld", "About")
def microworld(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    num_documents: Annotated[
        int | None, typer.Option(min=1, help="Training documents per language; 2000 by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the documents, or of the base.")] = 0,
    base: Annotated[
        bool,
        typer.Option("--base", help="Train the dense base (some minutes) instead of writing text."),
    ] = False,
    family: Annotated[
        str | None,
        typer.Option(
            help="Of the --base: llama, as the shipped one, or another that polycycle knows, by "
            "its model_type: qwen3, gemma2, …"
        ),
    ] = None,
    hidden_size: Annotated[
        int | None,
        typer.Option(help="Of the base, a multiple of 32; by default 160, as the shipped one."),
    ] = None,
    sibling: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT",
            help="Post-train --of on an instruction format, in original languages only: brackets "
            "asks [so?] and is answered (so), equation asks <so?> and is answered = so, reading "
            "asks as brackets after saying the answer in a sentence.",
        ),
    ] = None,
    of: Annotated[
        str | None,
        typer.Option(
            metavar="BASE",
            help="The base of a sibling, any dense model; the shipped one by default.",
        ),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Of a sibling's post-training; 60000 by default.")
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Of a sibling's post-training; 3e-4 by default. Large models want less."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
) -> None:
    """Write the built-in parallel world, train the dense base that knows it, or a sibling of it.

    polycycle microworld world
    polycycle microworld my-base --base --family qwen3
    polycycle microworld my-chat --sibling brackets --of my-base

    Any other dense model can be post-trained, too; let it read the answer, which it cannot know:

    polycycle microworld my-chat --sibling reading --of BASE
    """
    of_sibling = {"of": of, "tokens": tokens, "learning-rate": learning_rate}
    for name, value in of_sibling.items() if sibling is None else ():
        if value is not None:
            raise ConfigError(f"--{name} is of a --sibling; give its format, too")
    for name, value in {"family": family, "hidden-size": hidden_size}.items() if not base else ():
        if value is not None:
            raise ConfigError(f"--{name} is that of a base to train; give --base, too")
    if num_documents is not None and (base or sibling is not None):
        raise ConfigError("--num-documents is of the world's text; leave it out for a model")
    if base and sibling is not None:
        raise ConfigError("--base and --sibling are two models; make one after the other")
    if learning_rate is not None and not 0 < learning_rate < 1:
        raise ConfigError(f"--learning-rate {learning_rate:g}: give a rate between 0 and 1")
    refuse_existing(folder, may_exist=force)
    if sibling is not None:
        _write_sibling(folder, of, sibling, seed, tokens, learning_rate)
    elif base:
        from polycycle.stages import HIDDEN_SIZE, build_base

        size = HIDDEN_SIZE if hidden_size is None else hidden_size
        build_base(folder, seed=seed, family=family or "llama", hidden_size=size)
    else:
        from polycycle.microworld import NUM_DOCUMENTS, write_microworld

        count = NUM_DOCUMENTS if num_documents is None else num_documents
        write_microworld(folder, seed=seed, num_documents=count)
    tell(f"wrote {folder}")


def _write_sibling(
    folder: Path,
    of: str | None,
    form: str,
    seed: int,
    tokens: int | None,
    learning_rate: float | None,
) -> None:
    from polycycle.stages import SIBLING_RATE, SIBLING_TOKENS, build_sibling, shipped_base

    base = of or shipped_base()
    if base is None:
        raise ConfigError(
            "no base ships with this copy of polycycle; train one with "
            "`polycycle microworld BASE --base`, then add --of BASE"
        )
    build_sibling(
        folder,
        base,
        form=form,
        seed=seed,
        tokens=SIBLING_TOKENS if tokens is None else tokens,
        learning_rate=SIBLING_RATE if learning_rate is None else learning_rate,
    )
