"""Pure, unweighted losses of the methods."""

from polycycle.losses.localized import localized_balancing_loss
from polycycle.losses.routing import (
    BalanceStatistics,
    PriorForm,
    assignment_loss,
    balance_statistics,
    group_prior_loss,
    language_classifier_loss,
    language_prior_loss,
    load_balancing_loss,
    router_z_loss,
)

__all__ = [
    "BalanceStatistics",
    "PriorForm",
    "assignment_loss",
    "balance_statistics",
    "group_prior_loss",
    "language_classifier_loss",
    "language_prior_loss",
    "load_balancing_loss",
    "localized_balancing_loss",
    "router_z_loss",
]
