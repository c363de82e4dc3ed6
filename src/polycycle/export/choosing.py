"""The stock architecture that computes exactly what a model computes, on a given engine."""

from polycycle.engines import ENGINES, Engine
from polycycle.errors import ExportError, did_you_mean
from polycycle.export import ernie4_5_moe, flex_olmo, mixtral, qwen2_moe, qwen3_moe
from polycycle.export.engines import why_wrong_on
from polycycle.export.source import Source
from polycycle.export.target import GGUF, Target, TargetPlan, plan_target

TARGETS: dict[str, Target] = {
    module.TARGET.model_type: module.TARGET
    for module in (mixtral, qwen2_moe, qwen3_moe, flex_olmo, ernie4_5_moe)
}
AUTO = "auto"


def choose_target(
    source: Source, *, target: str = AUTO, engine: str = "transformers"
) -> TargetPlan:
    """The plan of the first target that is exact on the engine.

    Args:
        source: the model.
        target: one of `TARGETS`, or `auto`: the family's targets, best first.
        engine: what will serve it.

    Raises:
        ExportError: none is exact; the message has every target's reason, and what would be.
    """
    asked = _engine(engine)
    if target != AUTO and target not in TARGETS:
        known = (AUTO, *TARGETS, GGUF)
        raise ExportError(
            f"--target {target!r}: choose among {', '.join(known)}.{did_you_mean(target, known)}"
        )
    names = source.family.export_targets if target == AUTO else (target,)
    reasons = {}
    for name in names:
        try:
            return _plan_on(TARGETS[name], source, asked)
        except ExportError as error:
            reasons[name] = str(error)
    raise ExportError(_refusal(source, reasons, asked))


def _engine(name: str) -> Engine:
    for engine in ENGINES:
        if engine == name:
            return engine
    raise ExportError(
        f"--engine {name!r}: choose among {', '.join(ENGINES)}.{did_you_mean(name, ENGINES)}"
    )


# Their Qwen3-MoE has experts in every layer.
_FILLED = ("sglang", "llama.cpp")


def _plan_on(target: Target, source: Source, engine: Engine) -> TargetPlan:
    plan = plan_target(target, source, fill_dense=engine in _FILLED)
    wrong = why_wrong_on(engine, plan)
    if wrong is not None:
        raise ExportError(wrong)
    return plan


def _exact_elsewhere(source: Source) -> list[str]:
    """`--target X --engine Y` that would be exact."""
    found = []
    for name in source.family.export_targets:
        for engine in ENGINES:
            try:
                _plan_on(TARGETS[name], source, engine)
            except ExportError:
                continue
            found.append(f"--target {name} --engine {engine}")
    return [*found, f"--target {GGUF}"] if _has_gguf(source) else found


def _has_gguf(source: Source) -> bool:
    try:  # it needs a package that is not always there
        from polycycle.export.llama_cpp import plan_gguf

        plan_gguf(source)
    except (ModuleNotFoundError, ExportError):
        return False
    return True


def _refusal(source: Source, reasons: dict[str, str], engine: Engine) -> str:
    if not source.family.export_targets:
        return (
            f"{source.name}: no stock mixture-of-experts architecture computes what an upcycled "
            f"{source.family.dense_model_type} computes. Serve it with transformers (install "
            "polycycle there and import it before loading)"
        )
    lines = [f"{source.name} has no exact export for {engine}:"]
    lines += [f"  {name}: {reason}" for name, reason in reasons.items()]
    if len({count for count in source.counts if count > 1}) > 1:
        lines.append(
            f"Its layers have {source.counts} experts. The same number everywhere, or 1 and that "
            "number only (allocation.export_friendly: true in a recipe), is exact in more targets"
        )
    elsewhere = _exact_elsewhere(source)
    if elsewhere:
        lines.append(f"Exact would be: {'; '.join(elsewhere)}")
    else:
        lines.append("Serve it with transformers and polycycle imported, as it is")
    return "\n".join(lines)
