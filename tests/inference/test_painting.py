"""What is painted: colours and marks by group, shares, one layer."""

from io import StringIO

import pytest
from rich.console import Console

from polycycle.errors import ConfigError
from polycycle.inference import ExpertName, RoutingTrace, TracedToken, paint_routing

OLD, ONE, TWO, LATE = ExpertName(0, 0), ExpertName(1, 1), ExpertName(1, 2), ExpertName(2, 1)
TRACE = RoutingTrace(
    (
        TracedToken("the", (OLD, OLD, OLD, OLD)),
        TracedToken(" νερό", (OLD, ONE, TWO, ONE)),
        TracedToken(" su", (OLD, OLD, LATE, LATE)),
        TracedToken(" end", None),
    ),
    (1, 2, 4, 7),
)
LANGUAGES = [["en", "zh"], ["el"], ["tr"]]


def shown(**settings):
    colour = "truecolor" if settings.get("with_colour", True) else None
    console = Console(
        color_system=colour, force_terminal=True, width=200, record=True, file=StringIO()
    )
    console.print(paint_routing(TRACE, LANGUAGES, **settings))
    return console


def test_without_colours_marks_stand_where_the_group_of_most_layers_changes():
    text = shown(with_colour=False).export_text()
    assert text.splitlines()[0] == "⟨0⟩the⟨G1⟩ νερό⟨0⟩ su end"  # of equals, the original


def test_shares_count_every_layer_and_token():
    text = " ".join(shown(with_colour=False).export_text().split())
    assert (
        "⟨0⟩ the original (en, zh) 58% ⟨G1⟩ new experts (el) 25% ⟨G2⟩ new experts (tr) 17%" in text
    )
    assert "first choices of 4 layers for 3 tokens" in text


def test_one_layer_shows_its_experts():
    text = " ".join(shown(with_colour=False, layer=4).export_text().split())
    assert text.startswith("⟨0⟩the⟨G1.2⟩ νερό⟨G2.1⟩ su end")
    assert "⟨G1.2⟩ expert 2 of group 1 (el) 33%" in text
    assert "first choices of layer 4 for 3 tokens" in text


def test_tokens_have_their_groups_colour_pale_where_layers_disagree():
    svg = shown().export_svg()
    strong_original, strong_group, pale_original = "#1f78b4", "#ff7f00", "#a6cee3"
    assert svg.count(f'fill="{strong_original}"') >= 2  # `the` and the legend
    assert f'fill="{strong_group}"' in svg  # three layers in four
    assert f'fill="{pale_original}"' in svg  # two in four


def test_a_layer_without_experts_is_refused_with_those_that_have_some():
    with pytest.raises(ConfigError, match=r"layer 3 has no experts .* 1, 2, 4, 7"):
        shown(layer=3)
