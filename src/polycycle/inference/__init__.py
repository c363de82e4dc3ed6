"""A finished model in use: it writes, shows the experts it used, and is served."""

from polycycle.inference.conversation import Answer, Conversation, Sampling, has_template
from polycycle.inference.loading import Speaker, load_speaker, open_model
from polycycle.inference.painting import paint_routing
from polycycle.inference.serving import Way, run_server, ways_to_serve
from polycycle.inference.trace import ExpertName, RoutingTrace, TracedToken
from polycycle.inference.watching import languages_of_groups, refuse_unwatchable

__all__ = [
    "Answer",
    "Conversation",
    "ExpertName",
    "RoutingTrace",
    "Sampling",
    "Speaker",
    "TracedToken",
    "Way",
    "has_template",
    "languages_of_groups",
    "load_speaker",
    "open_model",
    "paint_routing",
    "refuse_unwatchable",
    "run_server",
    "ways_to_serve",
]
