"""Settings that contradict each other across sections of a recipe, or would do nothing.

Each function returns messages that begin with the key; none means that all is well.
"""

from collections.abc import Mapping

from polycycle.config.baseline import AnyBaseline
from polycycle.config.data import DataConfig
from polycycle.config.experts import ExpertsConfig
from polycycle.config.export import ExportConfig
from polycycle.config.graft import GraftConfig
from polycycle.config.languages import LanguagesConfig
from polycycle.config.training import PostPretrainConfig, PostTrainConfig, ReviewConfig


def data_problems(
    data: DataConfig,
    languages: LanguagesConfig,
    post_pretrain: PostPretrainConfig,
    review: ReviewConfig | None,
) -> list[str]:
    """Languages without text, and text without a language."""
    groups = languages.groups()
    known = set(groups.all)
    problems = []
    for part in ("train", "valid"):
        sources = getattr(data, part)
        if isinstance(sources, dict):
            unknown = sorted(set(sources) - known)
            if unknown:
                problems.append(f"data.{part}: {', '.join(unknown)} stand in no language group")
    needed = set(groups.all_expanded)
    if (review is not None and review.replay_documents) or post_pretrain.replay_share > 0:
        needed |= set(groups.original)
    # Every language is measured; the unseen ones are in no training text.
    for part, wanted in (("train", needed), ("valid", known)):
        sources = getattr(data, part)
        missing = sorted(wanted - set(sources)) if isinstance(sources, dict) else []
        if missing:
            problems.append(f"data.{part}: no text for {', '.join(missing)}")
    if post_pretrain.prior_coef > 0 and post_pretrain.replay_share == 0:
        problems.append(
            "post_pretrain.prior_coef does nothing without original text: "
            "set post_pretrain.replay_share above 0"
        )
    return problems


def replay_problems(
    review: ReviewConfig | None, experts: ExpertsConfig, languages: LanguagesConfig
) -> list[str]:
    """What a review teaches by original text, where it replays none."""
    if review is None or review.replay_documents:
        return []
    holds_groups = review.prior_form == "group" and len(languages.expanded) > 1
    taught = {
        "review.prior_coef": review.prior_coef > 0 and not holds_groups,
        "experts.classifier": experts.classifier is not None,
        "experts.exact_retention": experts.exact_retention is not None,
    }
    return [
        f"{key}: learns from original text, but review.replay_documents is 0; raise that, or "
        f"{'set this to 0' if key.endswith('_coef') else 'leave this out'}"
        for key, is_asked_for in taught.items()
        if is_asked_for
    ]


def assignment_problems(
    experts: ExpertsConfig, languages: LanguagesConfig, post_pretrain: PostPretrainConfig
) -> list[str]:
    """Experts of languages that are none, or that nothing holds to them."""
    assignment = experts.assignment
    if assignment == "shared":
        defaults = PostPretrainConfig.model_fields
        return [
            f"post_pretrain.{name} does nothing with experts.assignment: shared; give "
            "languages experts of their own, as in {el: 2, hu: 2}, or leave it out"
            for name in ("assignment_coef", "assignment_hard_steps")
            if getattr(post_pretrain, name) != defaults[name].default
        ]
    problems = _entry_problems(assignment, languages)
    if post_pretrain.assignment_coef == 0 and post_pretrain.assignment_hard_steps == 0:
        problems.append(
            "experts.assignment does nothing: set post_pretrain.assignment_coef (0.1) or "
            "post_pretrain.assignment_hard_steps above 0"
        )
    return problems


def _entry_problems(assignment: Mapping[str, int], languages: LanguagesConfig) -> list[str]:
    """Languages that are named wrongly, twice, or without the others of their group."""
    problems = []
    entries = [tuple(key.split("+")) for key in assignment]
    groups = languages.expanded
    for key, tags in zip(assignment, entries, strict=True):
        homes = {n for n, group in enumerate(groups, start=1) for tag in tags if tag in group}
        stray = [tag for tag in tags if not any(tag in group for group in groups)]
        if stray:
            problems.append(
                f"experts.assignment: {key}: {', '.join(map(repr, stray))} is no expanded "
                f"language; known are {', '.join(languages.groups().all_expanded)}, and "
                "el+hu is what two of them share"
            )
        elif len(homes) > 1:
            problems.append(
                f"experts.assignment: {key} joins languages of different groups; an expert "
                "comes with one group and can only belong to languages of that one"
            )
    if len({frozenset(tags) for tags in entries}) < len(entries):
        problems.append("experts.assignment: two entries name the same languages; add them up")
    named = {tag for tags in entries for tag in tags}
    for number, group in enumerate(groups, start=1):
        missing = [tag for tag in group if tag not in named]
        if missing and len(missing) < len(group):
            problems.append(
                f"experts.assignment: {', '.join(missing)} of group G{number} is not named; "
                "name every language of a group, or none"
            )
    return problems


def baseline_problems(
    baseline: AnyBaseline | None,
    languages: LanguagesConfig,
    post_pretrain: PostPretrainConfig,
    review: ReviewConfig | None,
    export: ExportConfig | None,
) -> list[str]:
    """What a baseline has no use for, or cannot do without."""
    if baseline is None:
        return []
    problems = []
    if len(languages.expanded) > 1:
        problems.append(
            "baseline: trains in one stage; put all of languages.expanded into one group"
        )
    if export is not None:
        problems.append("export: needs a mixture of experts; leave `baseline` or `export` out")
    if baseline.method in ("lora", "shielded") and post_pretrain.fsdp:
        problems.append(
            f"post_pretrain.fsdp: what `{baseline.method}` freezes is copied to every process; "
            "set it false"
        )
    replays = (review is not None and review.replay_documents) or post_pretrain.replay_share
    if baseline.method == "shielded" and not replays:
        problems.append(
            "baseline.method: shielded scores columns on replayed text of the original languages; "
            "set review.replay_documents or post_pretrain.replay_share"
        )
    return problems


def frozen_base_problems(
    post_pretrain: PostPretrainConfig, baseline: AnyBaseline | None, experts: ExpertsConfig
) -> list[str]:
    """What needs a frozen base, where everything trains."""
    if post_pretrain.trains != "everything":
        return []
    needs_base = {
        "baseline": baseline,
        "experts.exact_retention": experts.exact_retention,
    }
    return [
        f"post_pretrain.trains: everything leaves no frozen base, so leave `{key}` out"
        for key, value in needs_base.items()
        if value is not None
    ]


def graft_problems(
    graft: GraftConfig | None, baseline: AnyBaseline | None, review: ReviewConfig | None
) -> list[str]:
    """Grafts that the model or the other stages do not allow."""
    if graft is None:
        return []
    if baseline is None:
        problems = []
        if review is None and graft.review_after:
            problems.append("graft.review_after needs the settings of `review`, which is null")
        if review is None and graft.when == "before_review":
            problems.append("graft.when: before_review needs `review`, which is null")
        if graft.merge != "add":
            problems.append(
                f"graft.merge: {graft.merge} merges into a dense `baseline`, which is null; a "
                "mixture of experts takes `add`"
            )
        return problems
    method = baseline.method
    if method == "loramoe":
        return ["graft: LoRAMoE's model is not plain and dense; leave `baseline` or `graft` out"]
    for_mixtures = {
        "target": graft.target != "all",
        "keep_ungrafted": graft.keep_ungrafted,
        "review_after": graft.review_after,
        "when": graft.when != "end",
    }
    problems = [
        f"graft.{key}: needs a mixture of experts, but `baseline` is {method}; leave it out"
        for key, is_given in for_mixtures.items()
        if is_given
    ]
    if method == "llama_pro" and graft.merge != "add":
        problems.append(
            f"graft.merge: {graft.merge} needs the base's own blocks, but llama_pro adds some; "
            "use add"
        )
    return problems


def post_train_problems(
    post_train: PostTrainConfig | None,
    graft: GraftConfig | None,
    baseline: AnyBaseline | None,
    experts: ExpertsConfig,
    languages: LanguagesConfig,
) -> list[str]:
    """Post-training that has no place, no text, or nothing to train."""
    if post_train is None:
        return []
    problems = []
    if graft is not None:
        problems.append("post_train: takes the place of a graft; leave `post_train` or `graft` out")
    if baseline is not None and baseline.method == "loramoe":
        problems.append("post_train: LoRAMoE's model is not plain and dense; leave it out")
    if baseline is not None and post_train.trains == "new_experts":
        problems.append("post_train.trains: a dense `baseline` has no experts; use everything")
    if experts.exact_retention is not None and post_train.trains == "everything":
        problems.append(
            "post_train.trains: everything leaves no frozen base, so leave "
            "`experts.exact_retention` out"
        )
    if isinstance(post_train.data, str):
        if "{language}" not in post_train.data:
            problems.append(
                f"post_train.data: a pattern must contain {{language}}, got {post_train.data!r}"
            )
    elif unknown := sorted(set(post_train.data) - set(languages.groups().all)):
        problems.append(f"post_train.data: {', '.join(unknown)} stand in no language group")
    return problems


def expert_problems(experts: ExpertsConfig, data: DataConfig) -> list[str]:
    """More experts per token than there are, and classifiers of whole rows where none can be."""
    problems = []
    counts = experts.num_experts
    most = counts if isinstance(counts, int) else max(counts, default=1)
    if experts.top_k > most > 1:  # a layer with fewer than others uses all that it has
        of_layers = "" if isinstance(counts, int) else ", the most that a layer has"
        problems.append(
            f"experts.top_k={experts.top_k} exceeds experts.num_experts={most}{of_layers}"
        )
    if experts.classifier is None or experts.classifier.form != "sequence":
        return problems
    if data.packing == "documents":
        problems.append(
            "experts.classifier.form=sequence judges whole rows, but data.packing=documents "
            "puts several documents into one; use form: token"
        )
    if experts.exact_retention:
        problems.append(
            "experts.exact_retention keeps its decision beside the cache, which "
            "experts.classifier.form=sequence refuses; use form: token, or leave one out"
        )
    return problems
