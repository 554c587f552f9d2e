"""What the experts of the models that serve are asked for, and what computes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from prometheus_client.core import Metric

from models.expert_load import ExpertLoad, dead, entropy, is_enough, overflow
from ops.metrics.families import Counter, Gauge

if TYPE_CHECKING:
    from pipeline.decisions import Served


def expert_families(app: str, serving: Mapping[str, Served]) -> list[Metric]:
    """Return the load of the experts, and the provider of each task's network.

    Args:
        app: its name.
        serving: task -> what serves it.
    """
    of = ("app", "task", "bundle", "layer")
    visits = Counter("pelton_expert_visits_total", "Tokens of served events that an expert computed.", (*of, "expert"))
    evenness = Gauge("pelton_expert_entropy", "Of the load of the newest events: 1 if even, 0 if one has all.", of)
    idle = Gauge("pelton_expert_dead", "Experts below 1 % of the mean load of the newest events.", of)
    above = Gauge("pelton_expert_overflow", "Largest load of the newest events over the mean, less 1 (MaxVio).", of)
    providers = Gauge("pelton_network_provider_info", "What really computes the network.", ("app", "task", "provider"))
    for task, served in serving.items():
        provider = getattr(served.scorer, "provider", "none")  # rules have no scorer, and not every scorer a network
        if provider != "none":
            providers.set((app, task, provider), 1)
        load: ExpertLoad | None = getattr(served.scorer, "load", None)
        if load is None:
            continue
        for layer, total in enumerate(load.visits(), start=1):
            for expert, count in enumerate(total.tolist()):
                visits.add((app, task, served.bundle, str(layer), str(expert)), count)
        for layer, recent in enumerate(load.recent(), start=1):
            if is_enough(recent):
                labels = (app, task, served.bundle, str(layer))
                evenness.set(labels, entropy(recent))
                idle.set(labels, dead(recent))
                above.set(labels, overflow(recent))
    return [each.family() for each in (visits, evenness, idle, above, providers)]
