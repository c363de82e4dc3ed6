"""Running the cells of a study, each in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from polycycle.config import DEMO, Recipe, Study, cell_recipe, leaves, parse_yaml, read_settings
from polycycle.errors import ConfigError, PolycycleError, did_you_mean
from polycycle.families import SUPPORTED
from polycycle.files import make_folder, write_text
from polycycle.microworld import FORMATS
from polycycle.stages import (
    RUNS_AT_ONCE,
    measured_models,
    num_processors,
    write_base,
    write_demo,
    write_siblings,
)

_SHARED = "demo"
_TAIL_LINES = 3
_NOT_SET = "not set"
# Of a run that was asked to stop and did, and of one that a signal ended.
_INTERRUPTED = (130, -signal.SIGINT, -signal.SIGTERM)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One variant with one seed.

    Attributes:
        name: of the variant.
        seed: of data order and initialisation (and of the demo's texts).
        folder: of its run.
        recipe: everything it is told.
        reuse: runs of other variants, whose stages it takes over where they are the same.
        model: of the run, which is shown; None is the last.
        of: the variant whose run this is, if it is not its own.
    """

    name: str
    seed: int
    folder: Path
    recipe: Recipe
    reuse: tuple[Path, ...] = ()
    model: str | None = None
    of: str | None = None

    @property
    def recipe_file(self) -> Path:
        """The recipe as it was run; `polycycle run` on it does the same again."""
        return self.folder.parent / f"{self.folder.name}.yaml"

    @property
    def log_file(self) -> Path:
        """What the run said."""
        return self.folder.parent / f"{self.folder.name}.log"

    @property
    def result_file(self) -> Path:
        """What the run found."""
        return self.folder / "result.json"

    @property
    def speed_file(self) -> Path:
        """How fast the model that is shown was found to be."""
        which = "" if self.model is None else f"-{self.model}"
        return self.folder.parent / f"{self.folder.name}.speed{which}.json"

    @property
    def is_done(self) -> bool:
        """Whether the run ended, with this very recipe, whatever it was called then."""
        return self.result_file.is_file() and self._was_told_this

    @property
    def told(self) -> dict[str, Any] | None:
        """What the run in its folder was told; None where nothing readable says so."""
        if not self.recipe_file.is_file():
            return None
        return _settings_in(self.recipe_file.read_text(encoding="utf-8", errors="replace"))

    @property
    def changes(self) -> dict[str, tuple[object, object]]:
        """Settings, by dotted key, as the run was told them and as they are now, where they differ.

        The name is none of them: it makes no number another.
        """
        then, now = leaves(self.told or {}), leaves(self.settings)
        pairs = {key: (then.get(key, _NOT_SET), now.get(key, _NOT_SET)) for key in then | now}
        return {key: pair for key, pair in pairs.items() if key != "name" and pair[0] != pair[1]}

    @property
    def _was_told_this(self) -> bool:
        return self.told is not None and not self.changes

    @property
    def failure_file(self) -> Path:
        """Says that the run failed by itself; an interrupted one leaves none."""
        return self.folder.parent / f"{self.folder.name}.failed"

    @property
    def has_failed(self) -> bool:
        """Whether the last attempt failed by itself, with this very recipe."""
        return self.failure_file.is_file() and self._was_told_this and not self.is_done

    @property
    def settings(self) -> dict[str, Any]:
        """What its run is told; what is left to defaults is not in it."""
        return self.recipe.model_dump(mode="json", exclude_unset=True)

    @property
    def text(self) -> str:
        """Its settings as YAML."""
        return yaml.safe_dump(self.settings, sort_keys=False, allow_unicode=True)

    def last_words(self) -> str:
        """The end of the log: what a failed run said last."""
        if not self.log_file.is_file():
            return ""
        lines = self.log_file.read_text(encoding="utf-8", errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return " ".join(said[-_TAIL_LINES:])


@cache  # asked for again and again, and YAML is slow to read
def _settings_in(recipe: str) -> dict[str, Any] | None:
    """What a recipe's text says, not to be changed; None of what we never wrote."""
    try:
        found = parse_yaml(recipe, where="recipe")
    except ConfigError:
        return None
    return found if isinstance(found, dict) else None


def plan_cells(study: Study) -> list[Cell]:
    """All cells, seed by seed. Every recipe is checked before anything is run.

    Raises:
        ConfigError: a variant's settings are wrong, or it shows a model that its run will not have.
    """
    demo = study.recipe == DEMO
    settings = _demo_settings() if demo else read_settings(Path(study.recipe), what="recipe")
    seeds = dict.fromkeys(seed for name in study.cells for seed in study.seeds_of(name))
    cells = []
    for seed in seeds:
        names = [name for name in study.cells if seed in study.seeds_of(name)]
        own = [name for name in names if study.run_of(name) == name]
        folders = {name: study.output / name / f"seed-{seed}" for name in own}
        found = {}
        for name, folder in folders.items():
            places: dict[str, Any] = {"output": str(folder), "seed": seed}
            places["name"] = f"{study.title_of(name)}, seed {seed}"
            named = study.siblings
            if demo:
                base, siblings = _demo_places(study, name, seed)
                named = {form: str(siblings / form) for form in FORMATS}
                places |= {"base": str(base), "data.root": str(demo_world(study.output, seed))}
            recipe = cell_recipe(study, name, settings, places)
            recipe = _with_siblings(recipe, named, where=f"cell {name}")
            others = tuple(other for other in folders.values() if other != folder)
            found[name] = Cell(
                name=name,
                seed=seed,
                folder=folder,
                recipe=recipe,
                reuse=others,
                model=study.cells[name].model,
            )
        for name in names:
            of, model = study.cells[name].of, study.cells[name].model
            cell = found[name] if of is None else replace(found[of], name=name, of=of, model=model)
            _check_model(cell)
            cells.append(cell)
    return cells


def _check_model(cell: Cell) -> None:
    """A mistyped model is found before hours of running, not when the table is made."""
    there = measured_models(cell.recipe)
    if cell.model is not None and cell.model not in there:
        raise ConfigError(
            f"cells.{cell.name}.model: the run will have no {cell.model!r}."
            f"{did_you_mean(cell.model, there)} There will be {', '.join(there)}"
        )


def _demo_settings() -> dict[str, Any]:
    """The demo's recipe without its last steps: a study that wants them says so."""
    path = files("polycycle.microworld") / "demo.yaml"
    settings: dict[str, Any] = parse_yaml(path.read_text(encoding="utf-8"), where=path.name)
    for step in ("graft", "export", "evaluation"):
        settings.pop(step)
    settings["data"].pop("tasks")
    return settings


def _demo_home(study: Study, seed: int) -> Path:
    return demo_world(study.output, seed).parent


def demo_world(output: Path, seed: int) -> Path:
    """The folder of the texts that a demo's cells with this seed read."""
    return output / _SHARED / f"seed-{seed}" / "world"


def _demo_places(study: Study, cell: str, seed: int) -> tuple[Path, Path]:
    """The base of a cell in a demo, and the folder of its siblings.

    A cell may bring a base, or name a family: then one is trained, for all seeds as the shipped is.
    """
    home = _demo_home(study, seed)
    asked = {**study.settings, **study.cells[cell].settings}.get("base")
    if asked is None:
        return home / "base", home
    if asked in SUPPORTED:
        return study.output / _SHARED / asked, home / f"siblings-of-{asked}"
    base = Path(str(asked))  # YAML makes a number of a folder called 96
    # By the whole path: `a/base` and `b/base` have siblings of their own.
    return base, home / f"siblings-of-{'--'.join(base.relative_to(base.anchor).parts)}"


def _with_siblings(recipe: Recipe, named: Mapping[str, str], *, where: str) -> Recipe:
    """Siblings that are called by their instruction format, found.

    Args:
        recipe: of a cell.
        named: models by format: in a demo made when a cell needs them, else those of the study.
        where: for the error.

    Raises:
        ConfigError: a format is named that the study gives no model for.
    """
    if recipe.graft is None:
        return recipe
    for one in recipe.graft.post:
        if one.model in FORMATS and one.model not in named and not Path(one.model).exists():
            raise ConfigError(
                f"{where}, graft.post: {one.model!r} is an instruction format of the demo; with "
                "another recipe the study has to say which post-trained model that is, as in "
                f"`siblings: {{{one.model}: Qwen/Qwen2.5-1.5B-Instruct}}`"
            )
    post = tuple(
        one.model_copy(update={"model": named[one.model]}) if one.model in named else one
        for one in recipe.graft.post
    )
    return recipe.model_copy(update={"graft": recipe.graft.model_copy(update={"post": post})})


def run_cells(
    study: Study,
    cells: Sequence[Cell],
    *,
    tell: Callable[[str], None],
    retry_failed: bool = True,
    jobs: int = 1,
) -> None:
    """Run every cell that has no result yet; one that fails is told, and the rest goes on.

    Args:
        study: for its recipe, its titles, and the languages of its texts.
        cells: in this order; those that show another's run are passed over.
        tell: where a line for each cell goes.
        retry_failed: try cells again that failed. An interrupted cell goes on where it was
            either way.
        jobs: how many to run at once. Of cells that share their first training one goes ahead.

    Raises:
        ConfigError: there is no writing where a cell's run is to stand.
    """
    cells = [cell for cell in cells if cell.of is None]
    waiting = [cell for cell in cells if not cell.is_done]
    if not retry_failed:
        waiting = [cell for cell in waiting if not cell.has_failed]
    tell(f"{study.name}: {len(cells)} cells, {len(cells) - len(waiting)} need no run")
    for folder in dict.fromkeys(cell.folder.parent for cell in waiting):
        make_folder(folder)
    languages = _languages(study) if study.recipe == DEMO else None
    jobs = max(1, min(jobs, len(waiting)))
    tasks = [
        _Task(
            cell=cell,
            title=f"{study.title_of(cell.name)}, seed {cell.seed}",
            number=f"{number}/{len(waiting)}",
            at_once=jobs,
        )
        for number, cell in enumerate(waiting, start=1)
    ]

    def is_ready(task: _Task) -> bool:
        return languages is None or _write_demo(study, task, languages, tell)

    if jobs == 1:
        for task in tasks:
            if is_ready(task):
                _carry_out(task, tell)
    else:
        led = {_first_training(cell) for cell in cells if cell.is_done}
        _at_once([task for task in tasks if is_ready(task)], led, tell, jobs)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """A cell to run.

    Attributes:
        cell: which.
        title: of its variant and seed.
        number: which one of how many.
        at_once: it and those that run beside it.
    """

    cell: Cell
    title: str
    number: str
    at_once: int


def _carry_out(task: _Task, tell: Callable[[str], None]) -> None:
    tell(f"[{task.number}] {task.title} …")
    started = time.monotonic()
    code = _run(task.cell, task.at_once)
    minutes = (time.monotonic() - started) / 60
    prefix = "    " if task.at_once == 1 else f"    {task.title}: "  # lines of several mix
    if code == 0:
        tell(f"{prefix}done in {minutes:.1f} min")
    elif code in _INTERRUPTED:
        tell(f"{prefix}interrupted; the same command goes on")
    else:
        words = f"{task.cell.last_words()}\n    {task.cell.log_file}"
        tell(f"{prefix}FAILED (exit code {code}): {words}")


def _at_once(
    tasks: Sequence[_Task], led: Container[str], tell: Callable[[str], None], jobs: int
) -> None:
    """So many at a time; of those that share their first training one before the others.

    Args:
        tasks: what to run.
        led: first trainings that are done already.
        tell: where lines go.
        jobs: how many at a time.
    """
    alike: dict[str, list[_Task]] = {}
    for task in tasks:
        alike.setdefault(_first_training(task.cell), []).append(task)
    pool = ThreadPoolExecutor(jobs)
    afterwards: dict[Future[None], list[_Task]] = {}

    def begin(task: _Task, then: Sequence[_Task] = ()) -> None:
        afterwards[pool.submit(_carry_out, task, tell)] = list(then)

    try:
        for key, (first, *others) in alike.items():
            if key in led:
                for task in (first, *others):
                    begin(task)
            else:
                begin(first, then=others)
        while afterwards:
            for future in wait(afterwards, return_when=FIRST_COMPLETED).done:
                future.result()
                for task in afterwards.pop(future):
                    begin(task)
    except BaseException as error:
        why = str(error) or type(error).__name__
        tell(f"stopping ({why}): no cell is begun any more; those that run are waited for")
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _first_training(cell: Cell) -> str:
    """Alike for cells whose first training is the same; what comes after it may differ.

    Where that is wrong, a training is made twice, or a cell waits in vain: no result changes.
    """
    recipe = cell.recipe.model_dump(mode="json")
    parts = {key: recipe[key] for key in ("base", "languages", "baseline", "post_pretrain", "seed")}
    parts["data"] = {key: recipe["data"][key] for key in ("root", "train", "packing", "repeat")}
    parts["experts"] = {
        key: value
        for key, value in recipe["experts"].items()
        if key not in ("classifier", "exact_retention")  # they are trained in review
    }
    return json.dumps(parts, sort_keys=True)


def _write_demo(
    study: Study,
    task: _Task,
    languages: Mapping[str, tuple[str, ...]],
    tell: Callable[[str], None],
) -> bool:
    """Write what a cell of a demo reads: texts, its base, and the siblings that it grafts.

    Returns:
        Whether that went well; if not, the cell has failed, and why is told.
    """
    cell = task.cell
    home = _demo_home(study, cell.seed)
    base, siblings = _demo_places(study, cell.name, cell.seed)
    grafted = () if cell.recipe.graft is None else cell.recipe.graft.post
    forms = [Path(one.model).name for one in grafted if Path(one.model).parent == siblings]
    own = forms if siblings == home else ()
    try:
        write_demo(home, seed=cell.seed, tell=tell, siblings=own, **languages)
        if siblings != home:
            if base.parent == study.output / _SHARED:
                write_base(base, base.name, tell=tell)
            write_siblings(siblings, base, forms, seed=cell.seed, tell=tell)
    except PolycycleError as error:
        tell(f"[{task.number}] {task.title}: FAILED before it began: {error}")
        _put_down_recipe(cell)
        write_text(cell.log_file, f"{type(error).__name__}: {error}\n")
        write_text(cell.failure_file, "before it began\n")
        return False
    return True


def _languages(study: Study) -> dict[str, tuple[str, ...]]:
    """Those of all variants, whichever are run now: they share their texts."""
    groups = [cell.recipe.languages.groups() for cell in plan_cells(study)]
    return {
        "expanded": tuple(dict.fromkeys(tag for one in groups for tag in one.all_expanded)),
        "unseen": tuple(dict.fromkeys(tag for one in groups for tag in one.unseen_original)),
    }


def _put_down_recipe(cell: Cell) -> None:
    """As what is tried now; what another recipe led to must not pass for this one's."""
    cell.failure_file.unlink(missing_ok=True)
    cell.result_file.unlink(missing_ok=True)
    write_text(cell.recipe_file, cell.text)


def _run(cell: Cell, at_once: int) -> int:
    """The exit code of `polycycle run` on this cell's recipe.

    Args:
        cell: what to run.
        at_once: how many share the processors with it, itself among them; alone it leaves to
            torch how many it uses.
    """
    _put_down_recipe(cell)
    command = [sys.executable, "-m", "polycycle", "run", str(cell.recipe_file)]
    command += ["--set", f"reuse={json.dumps([str(folder) for folder in cell.reuse])}"]
    environment = os.environ | {RUNS_AT_ONCE: str(at_once)}
    if at_once > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, num_processors() // at_once)))
    with cell.log_file.open("w", encoding="utf-8") as log:
        code = subprocess.run(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False
        ).returncode
    if code not in (0, *_INTERRUPTED):
        write_text(cell.failure_file, f"exit code {code}\n")
    return code
