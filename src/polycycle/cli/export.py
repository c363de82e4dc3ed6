"""`polycycle export`, `verify` and `push`: out of our format, proved, and onto the hub."""

import json
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polycycle.cli.app import out, print_json, refuse_existing, tell, verb
from polycycle.cli.upcycle import bytes_bar, print_jobs
from polycycle.errors import ConfigError, ExportError, PolycycleError

if TYPE_CHECKING:
    from polycycle.results import ExportResult, RunResult

_TEXT_HELP = (
    "Text to compare on, LANGUAGE=FILE (el=text/el.jsonl), once per language; by default the "
    "held-out text of the run that made MODEL, or random token ids."
)
Texts = Annotated[
    list[str] | None, typer.Option("--text", metavar="LANGUAGE=FILE", help=_TEXT_HELP)
]


@verb("export", "Leaving home")
def export(
    model: Annotated[str, typer.Argument(help="An upcycled model: a folder or a hub id.")],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; must be new.")],
    target: Annotated[
        str,
        typer.Option(
            help="auto, mixtral, qwen2_moe, qwen3_moe, flex_olmo, ernie4_5_moe, or gguf (for "
            "llama.cpp)."
        ),
    ] = "auto",
    engine: Annotated[
        str, typer.Option(help="What will serve it: transformers, vllm, sglang or llama.cpp.")
    ] = "transformers",
    texts: Texts = None,
    without_exact_retention: Annotated[
        bool,
        typer.Option(
            "--without-exact-retention",
            help="Leave a retention gate out: no stock architecture has one. Classifiers stay.",
        ),
    ] = False,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Write it without the proof; verify it later.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Commit, branch or tag of a hub id.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the tensors as JSON only.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
) -> None:
    """Write an upcycled model as a stock architecture that computes exactly the same, and prove it.

    The target is chosen so that it is exact for the model's family, its experts per layer and the
    engine; what cannot be exact is refused with the reason and what would be. Then a process that
    has never seen polycycle loads the folder, and its logits and greedy text are compared with the
    model's, language by language. OUT appears only when that has succeeded.

        polycycle export runs/greek/review greek-mixtral --engine vllm
    """
    from polycycle.export import execute_export, plan_export

    refuse_existing(folder, may_exist=force or dry_run)
    plan = plan_export(
        model,
        target=target,
        engine=engine,
        without_exact_retention=without_exact_retention,
        revision=revision,
    )
    if dry_run:
        print_jobs(plan.jobs)
        return
    has_tokenizer = plan.source.checkpoint.has_tokenizer
    compared = None if no_verify else _texts(texts, plan.source.checkpoint.folder, has_tokenizer)
    num_bytes = sum(job.num_bytes for job in plan.jobs)
    tell(f"target: {plan.target_name}, {plan.slots.num_slots} experts in a layer")
    with bytes_bar("exporting and comparing", num_bytes) as progress:
        execute_export(
            plan,
            folder,
            engine=engine,
            texts=compared,
            with_verification=not no_verify,
            progress=progress,
        )
    tell(f"wrote {folder}: {num_bytes / 1e9:.2f} GB")
    if no_verify:
        tell(f"not proved yet: polycycle verify {folder} --against {model}")
        return
    _show_and_write_card(folder, plan.source.checkpoint.folder)
    tell(f"serve it: polycycle serve {folder}")


@verb("verify", "Leaving home")
def verify(
    exported: Annotated[Path, typer.Argument(metavar="OUT", help="What export wrote.")],
    against: Annotated[
        str | None,
        typer.Option(help="The upcycled model; by default the one it was exported from."),
    ] = None,
    texts: Texts = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Prove anew that an exported folder computes what its model computes.

    float32 must agree to 1e-5 of the largest logit with the same best tokens and greedy text;
    bfloat16 to 1e-3 nats of mean KL with 99.5 % of the best tokens the same, and where rounding
    alone misses that, float32 decides. The result is written into the folder and its model card.
    Ends with code 1 if it fails.

        polycycle verify greek-mixtral --against runs/greek/review --text el=valid/el.jsonl
    """
    from polycycle.checkpoint import open_checkpoint
    from polycycle.export import EXPORT_FILE, read_record
    from polycycle.export import verify as prove

    record = read_record(exported)
    if record is None:
        raise ExportError(f"{exported} is no export: there is no {EXPORT_FILE} in it")
    against = against or str(record["exported_from"])
    model = open_checkpoint(against)
    proof = prove(exported, model.folder, texts=_texts(texts, model.folder, model.has_tokenizer))
    if as_json:
        print_json(proof)
    elif "languages" in proof:
        _show_and_write_card(exported, model.folder)
    if not proof["passed"]:
        raise ExportError(
            f"{exported} does not compute what {against} computes:\n  "
            + "\n  ".join(proof["failures"])
        )


@verb("push", "Leaving home")
def push(
    folder: Annotated[Path, typer.Argument(help="A model folder: an export, or one of ours.")],
    repo: Annotated[str, typer.Argument(metavar="REPO_ID", help="owner/name on the hub.")],
    private: Annotated[
        bool, typer.Option("--private", help="Create the repository as a private one.")
    ] = False,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "Upload with polycycle",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be uploaded.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Upload an export that is not proved, or has no card.")
    ] = False,
) -> None:
    """Upload a model with its card to the Hugging Face hub.

    Log in first: `hf auth login`. An export goes up only after its proof.

        polycycle push greek-mixtral me/greek-mixtral --private
    """
    from polycycle.export import plan_push, upload

    plan = plan_push(folder, repo, force=force)
    for name, size in plan.files:
        out.print(f"{size / 1e6:>12,.2f} MB  {name}")
    total = sum(size for _, size in plan.files) / 1e9
    if dry_run:
        tell(f"{len(plan.files)} files, {total:.2f} GB would go to {repo}; nothing was uploaded")
        return
    address = upload(plan, private=private, message=message)
    tell(f"uploaded {len(plan.files)} files, {total:.2f} GB: {address}")


def _texts(
    given: list[str] | None, model: Path, has_tokenizer: bool
) -> dict[str, list[str]] | None:
    """What to compare on, by language; None is random token ids."""
    from polycycle.data import TextSource
    from polycycle.languages import check_tag, languages_by_group
    from polycycle.stages import first_texts

    if not has_tokenizer:
        if given:
            raise ConfigError(f"{model} has no tokenizer, so --text cannot be read; leave it out")
        tell("note: the model has no tokenizer, so random token ids are compared")
        return None
    if not given:
        return _texts_of_run(model)
    found = {}
    for one in given:
        language, separator, path = one.partition("=")
        if not separator:
            raise ConfigError(f"--text {one!r}: write LANGUAGE=FILE, for example el=text/el.jsonl")
        tag = check_tag(language)
        found[tag] = first_texts(TextSource(path=str(Path(path).resolve())), tag)
    groups = json.loads((model / "config.json").read_text(encoding="utf-8")).get("language_groups")
    missing = [tag for tag in chain(*languages_by_group(groups)) if tag not in found]
    if missing:
        tell(f"note: nothing is compared in {', '.join(missing)}; say --text for each of them, too")
    return found


def _texts_of_run(model: Path) -> dict[str, list[str]] | None:
    """The held-out text of the run that `model` is a stage of."""
    from polycycle.config import Recipe
    from polycycle.stages import held_out_texts

    record = model.parent / "recipe.json"
    otherwise = (
        "random token ids are compared; for real text say --text LANGUAGE=FILE, once per language"
    )
    if not record.is_file():
        tell(f"note: {model} is in no run folder, so {otherwise}")
        return None
    try:
        return held_out_texts(Recipe.model_validate_json(record.read_text(encoding="utf-8")))
    except (PolycycleError, ValueError) as error:
        tell(f"note: the run's held-out text cannot be read ({error}), so {otherwise}")
        return None


def _show_and_write_card(exported: Path, model: Path) -> None:
    from polycycle.files import write_text
    from polycycle.report import export_card, export_table
    from polycycle.stages import export_result

    result = export_result(exported)
    run = _run_of(model, result)
    write_text(exported / "README.md", export_card(result, run=run))
    out.print(export_table(result), soft_wrap=False)


def _run_of(model: Path, result: "ExportResult") -> "RunResult | None":
    """The result of the run whose final model this is, for the card's numbers."""
    from polycycle.results import load_result

    path = model.parent / "result.json"
    if not path.is_file():
        return None
    run = load_result(path)
    same = Path(run.final.folder).resolve() == model.resolve()
    return run.model_copy(update={"export": result}) if same else None
