"""Which of a group's new experts belong to which languages, layer by layer. Loads no torch."""

from collections.abc import Mapping, Sequence

from polycycle.errors import ConfigError

Languages = tuple[str, ...]
Assignment = tuple[tuple[Languages, ...], ...]
"""Per layer, for each new expert of the group the languages it is dedicated to."""


def assign_experts(
    shares: Mapping[Languages, int], new_experts: Sequence[int], *, is_exact: bool
) -> Assignment:
    """The languages of each new expert of a group; without any, an expert is open to all.

    Experts are given in the order in which `shares` lists their languages. Where a layer brings
    another number than the shares add up to, they are scaled: one expert to each entry, then each
    further one to the entry that has fewest for its share (Sainte-Laguë's rule, ties to the first
    listed). A layer with fewer experts than entries stays open to all.

    Args:
        shares: experts of each language, or of several that share them.
        new_experts: what the group brings to each layer; 0 for a layer that it leaves alone.
        is_exact: the shares are counts, and must add up to what each such layer brings.

    Raises:
        ConfigError: they do not, or no layer has an expert for each entry.
    """
    listed = ", ".join(f"{'+'.join(tags)}: {count}" for tags, count in shares.items())
    total = sum(shares.values())
    for layer, count in enumerate(new_experts):
        if is_exact and count and count != total:
            raise ConfigError(
                f"experts.assignment: layer {layer} gets {count} new experts, but {listed} add up "
                f"to {total}; make them add up to {count}, or set experts.num_experts: {total + 1}"
            )
    if max(new_experts, default=0) < len(shares):
        most = max(new_experts, default=0)
        layer = list(new_experts).index(most) if new_experts else 0
        raise ConfigError(
            f"experts.assignment: no layer has an expert for each of the {len(shares)} entries "
            f"({listed}); layer {layer} has the most new ones, {most}. Raise the number of "
            "experts, let languages share them (el+hu: 1), or set experts.assignment: shared"
        )
    return tuple(_assign_layer(shares, count) for count in new_experts)


def _assign_layer(shares: Mapping[Languages, int], num_new: int) -> tuple[Languages, ...]:
    if num_new < len(shares):
        return ((),) * num_new
    given = dict.fromkeys(shares, 1)
    for _ in range(num_new - len(shares)):
        given[max(given, key=lambda tags: shares[tags] / (2 * given[tags] + 1))] += 1
    return tuple(tags for tags, count in given.items() for _ in range(count))
