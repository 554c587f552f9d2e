"""How our panels look: one function for each kind, over the builders of grafana-foundation-sdk."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as models

SOURCE = models.DataSourceRef(type_val="prometheus", uid="$source")
HEIGHT, WIDTH = 8, 24
COLOURS = {"allow": "green", "review": "yellow", "block": "red"}
Query = tuple[str, str]  # PromQL and the name of its lines


def _target(number: int, query: Query, instant: bool = False) -> prometheus.Dataquery:
    expression, legend = query
    target = prometheus.Dataquery().datasource(SOURCE).ref_id(chr(ord("A") + number))
    target = target.expr(expression).legend_format(legend)
    return target.instant() if instant else target.range()


def lines(
    title: str, about: str, queries: Sequence[Query], unit: str, width: int = 8, *, stacked: bool = False,
    highest: float | None = None,
) -> timeseries.Panel:  # fmt: skip
    """Return lines over time.

    Args:
        unit: Grafana's id of it: "s", "bytes", "short", "ops", "percentunit".
        width: of 24.
        stacked: whether lines add up to a whole; those named after a decision have its colour.
        highest: end of the axis.
    """
    legend = common.VizLegendOptions().display_mode(looks.LegendDisplayMode.LIST)
    panel = (
        timeseries.Panel().title(title).description(about).datasource(SOURCE).unit(unit).height(HEIGHT).span(width)
        .min(0).line_width(1).fill_opacity(60 if stacked else 10).show_points(looks.VisibilityMode.NEVER)
        .legend(legend.placement(looks.LegendPlacement.BOTTOM).show_legend(True).calcs(["lastNotNull"]))
        .tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI).sort(looks.SortOrder.DESCENDING))
    )  # fmt: skip
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL).group("A"))
        for name, colour in COLOURS.items():
            fixed = {"mode": "fixed", "fixedColor": colour}
            panel = panel.override_by_name(name, [models.DynamicConfigValue(id_val="color", value=fixed)])
    if highest is not None:
        panel = panel.max(highest)
    for number, query in enumerate(queries):
        panel = panel.with_target(_target(number, query))
    return panel


def figure(
    title: str, about: str, query: str, unit: str, width: int = 4, *, bad_from: float | None = None
) -> stat.Panel:
    """Return one number as of now with its past behind it; it is red from `bad_from` on."""
    steps = [models.Threshold(value=None, color="green")]
    if bad_from is not None:
        steps.append(models.Threshold(value=bad_from, color="red"))
    return (
        stat.Panel().title(title).description(about).datasource(SOURCE).unit(unit).height(4).span(width)
        .graph_mode(looks.BigValueGraphMode.AREA)
        .thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_target(0, (query, "")))
    )  # fmt: skip


def in_use(title: str, about: str, query: Query, width: int = WIDTH) -> statetimeline.Panel:
    """Return a bar for each line of the query, for as long as it has a value; the value stands in it."""
    return (
        statetimeline.Panel().title(title).description(about).datasource(SOURCE).height(HEIGHT).span(width)
        .merge_values(True).row_height(0.8).show_value(looks.VisibilityMode.ALWAYS)
        .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.CONTINUOUS_BL_PU))
        .with_target(_target(0, query))
    )  # fmt: skip


class Switch(models.AnnotationQuery):
    """A mark at the moment that the value of a query names, in milliseconds; the builder has no fields for that."""

    def __init__(self, name: str, query: str, title: str, tags: Sequence[str]) -> None:
        super().__init__(name=name, datasource=SOURCE, enable=True, icon_color="purple", expr=query)
        self._title, self._tags = title, ",".join(tags)

    def to_json(self) -> dict[str, object]:
        """Return what Grafana's Prometheus source reads."""
        more = {"titleFormat": self._title, "tagKeys": self._tags, "useValueForTime": True, "step": "15s"}
        return super().to_json() | more


class Made(Builder[models.AnnotationQuery]):
    """Hands a finished annotation to the dashboard's builder."""

    def __init__(self, annotation: models.AnnotationQuery) -> None:
        self._annotation = annotation

    def build(self) -> models.AnnotationQuery:
        """Return it."""
        return self._annotation
