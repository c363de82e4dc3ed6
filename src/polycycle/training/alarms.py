"""Alarms: what goes wrong in such runs, noticed while it can still be mended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from polycycle.languages import LanguageGroups
from polycycle.training.monitor import StepRouting
from polycycle.training.settings import AlarmSettings

AlarmKind = Literal["forgetting", "plateau", "collapse"]


@dataclass(frozen=True, slots=True)
class RaisedAlarm:
    """One alarm.

    Attributes:
        kind: what is wrong.
        step: when it was noticed.
        message: what was seen, against what, and what to try.
    """

    kind: AlarmKind
    step: int
    message: str


class Alarms:
    """Watches validations and routing; each kind is raised once per stage (collapse: per layer).

    The languages of earlier groups are to be kept, as the original ones are; only the newest group
    is to learn.

    Args:
        settings: thresholds.
        groups: original and expanded languages; the last group is the one in training.
        kept: bits per byte by language that are to be kept: of the dense base for original
            languages, of the finished model of the groups before for theirs.
        total_steps: of the stage.
    """

    def __init__(
        self,
        settings: AlarmSettings,
        groups: LanguageGroups,
        kept: Mapping[str, float],
        total_steps: int,
    ) -> None:
        self.settings = settings
        self.groups = groups
        self.kept = dict(kept)
        self.total_steps = total_steps
        self.raised: list[RaisedAlarm] = []
        self._worse_in_a_row: dict[str, int] = {}
        self._history: list[tuple[int, float]] = []
        self._streaks: dict[str, int] = {}

    def after_validation(self, step: int, bits_per_byte: Mapping[str, float]) -> list[RaisedAlarm]:
        """New alarms from a validation."""
        before = len(self.raised)
        self._watch_forgetting(step, bits_per_byte)
        self._watch_plateau(step, bits_per_byte)
        return self.raised[before:]

    def after_step(self, step: int, routing: StepRouting) -> list[RaisedAlarm]:
        """New alarms from one step's routing."""
        before = len(self.raised)
        for layer, usage, entropy in zip(
            routing.layer_indices, routing.usage, routing.entropies, strict=True
        ):
            most, least = float(usage.max()), float(usage.min())
            seen = {
                "most": (self.settings.collapse_share, most, most.__gt__),
                "least": (self.settings.dead_share, least, least.__lt__),
                "entropy": (self.settings.usage_entropy, entropy, entropy.__lt__),
            }
            for name, (limit, value, is_beyond) in seen.items():
                if limit is not None:
                    self._watch_streak(step, f"{layer}:{name}", bool(is_beyond(limit)), value)
        return self.raised[before:]

    def _watch_streak(self, step: int, key: str, is_beyond: bool, value: float) -> None:
        self._streaks[key] = self._streaks.get(key, 0) + 1 if is_beyond else 0
        if self._streaks[key] != self.settings.patience_steps:
            return
        layer, name = key.split(":")
        what = {
            "most": f"one expert takes {value:.0%} of the assignments",
            "least": f"one expert takes {value:.2%} of the assignments",
            "entropy": f"usage entropy is {value:.2f} of its maximum",
        }[name]
        self._raise(
            "collapse",
            step,
            f"layer {layer}: {what}, for {self.settings.patience_steps} steps in a row. "
            "Raise balance_coef, or lower the learning rate",
        )

    def _watch_forgetting(self, step: int, bits_per_byte: Mapping[str, float]) -> None:
        limit = self.settings.forgetting_ratio
        if limit is None:
            return
        before = "the base's bits per byte"
        self._watch_kept(
            step, bits_per_byte, limit, "original languages", self.groups.all_original, before
        )
        for number, tags in enumerate(self.groups.expanded[:-1], start=1):
            who = f"languages of the earlier group G{number} ({', '.join(tags)})"
            before = "the bits per byte of the model before this group"
            self._watch_kept(step, bits_per_byte, limit, who, tags, before)

    def _watch_kept(
        self,
        step: int,
        bits_per_byte: Mapping[str, float],
        limit: float,
        who: str,
        tags: Sequence[str],
        before: str,
    ) -> None:
        ratio = self._mean_ratio(bits_per_byte, tags)
        if ratio is None:
            return
        in_a_row = self._worse_in_a_row.get(who, 0) + 1 if ratio > limit else 0
        self._worse_in_a_row[who] = in_a_row
        if in_a_row == 2:
            self._raise(
                "forgetting",
                step,
                f"{who} need {ratio:.3f} × {before}, above {limit} at two validations in a row. "
                "The review stage brings them back if routing is the cause; lower the learning "
                "rate or replay more of their text if it does not",
            )

    def _mean_ratio(self, bits_per_byte: Mapping[str, float], tags: Sequence[str]) -> float | None:
        """Mean over languages of bits per byte ÷ what is to be kept; None if none is measured."""
        ratios = [
            bits_per_byte[tag] / self.kept[tag]
            for tag in tags
            if tag in bits_per_byte and tag in self.kept
        ]
        return sum(ratios) / len(ratios) if ratios else None

    def _watch_plateau(self, step: int, bits_per_byte: Mapping[str, float]) -> None:
        newest = self.groups.expanded[-1] if self.groups.expanded else ()
        values = [bits_per_byte[tag] for tag in newest if tag in bits_per_byte]
        if self.settings.plateau_ratio is None or not values:
            return
        self._history.append((step, sum(values) / len(values)))
        fifth_ago = [value for at, value in self._history if at <= 0.8 * self.total_steps]
        if step < self.total_steps or not fifth_ago:
            return
        gained = 1 - self._history[-1][1] / fifth_ago[-1]
        if gained < self.settings.plateau_ratio:
            self._raise(
                "plateau",
                step,
                f"expanded languages gained {gained:.2%} bits per byte over the last fifth of the "
                f"steps (less than {self.settings.plateau_ratio:.2%}). More tokens will not help: "
                "raise the learning rate or the number of experts, or stop earlier",
            )

    def _raise(self, kind: AlarmKind, step: int, message: str) -> None:
        self.raised.append(RaisedAlarm(kind, step, message))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "raised": [[alarm.kind, alarm.step, alarm.message] for alarm in self.raised],
            "worse_in_a_row": dict(self._worse_in_a_row),
            "history": [list(entry) for entry in self._history],
            "streaks": self._streaks,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.raised = [RaisedAlarm(*alarm) for alarm in state["raised"]]
        self._worse_in_a_row = dict(state["worse_in_a_row"])
        self._history = [(step, value) for step, value in state["history"]]
        self._streaks = dict(state["streaks"])
