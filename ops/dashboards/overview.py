"""The first dashboard: is it deciding, how fast, what, with which models, and is everything accounted for."""

from __future__ import annotations

from typing import Any

import msgspec
from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from ops.dashboards.panels import SOURCE, WIDTH, Made, Switch, figure, in_use, lines

UID = "pelton-overview"
TITLE = "Pelton"
_WHO = 'app=~"$app", instance=~"$worker"'
_PROCESS = 'instance=~"$worker"'
_SERVING = "app, task, bundle, snapshot"


def overview() -> dict[str, Any]:
    """Return the dashboard as Grafana's JSON, without an id: Grafana knows it by its uid."""
    built = (
        dashboard.Dashboard(TITLE).uid(UID).tags(["pelton"]).editable().refresh("10s").time("now-30m", "now")
        .timezone("browser").tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("source").label("Source").type("prometheus"))
        .with_variable(_choice("app", "App", "label_values(pelton_app_info, app)"))
        .with_variable(_choice("worker", "Worker", 'label_values(pelton_app_info{app=~"$app"}, instance)'))
        .annotation(Made(_switches()))
    )  # fmt: skip
    for title, panels in _rows().items():
        built = built.with_row(dashboard.Row(title))
        for panel in panels:
            built = built.with_panel(panel)
    made = msgspec.json.decode(JSONEncoder().encode(built.build()))
    for number, panel in enumerate(made["panels"], start=1):
        panel["id"] = number  # Grafana gives others at every push if they are missing, and links to panels break
    return made


def _choice(name: str, label: str, query: str) -> dashboard.QueryVariable:
    everything = models.VariableOption(text="All", value="$__all")
    return (
        dashboard.QueryVariable(name).label(label).datasource(SOURCE).query(query).multi(True).include_all(True)
        .all_value(".*").current(everything).refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )  # fmt: skip


def _switches() -> Switch:
    first = f"1000 * min by ({_SERVING}) (pelton_serving_timestamp_seconds{{{_WHO}}})"
    return Switch("Models in use", first, "{{task}}: {{bundle}} {{snapshot}}", ["task"])


def _per_s(metric: str, by: str, more: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{{_WHO}{more}}}[$__rate_interval]))"


def _quantile(share: float, metric: str, by: str) -> str:
    return f"histogram_quantile({share}, {_per_s(f'{metric}_bucket', f'le, {by}')})"


def _rows() -> dict[str, list[Builder[models.Panel]]]:
    return {
        "Now": _now(), "Events and time": _flow(), "Decisions": _decisions(), "Models": _models(),
        "Queue": _queue(), "Experts": _experts(), "Accounts": _accounts(), "State": _state(), "Workers": _workers(),
    }  # fmt: skip


def _now() -> list[Builder[models.Panel]]:
    alerts = _per_s("pelton_decisions_total", "app", ', decision!="allow"')
    return [
        figure("Workers", "Processes that answer.", f"count(pelton_app_info{{{_WHO}}})", "short"),
        figure("Decided", "Events a second.", f"sum({_per_s('pelton_decisions_total', 'app')})", "ops"),
        figure("p99", "From append to committed decision.",
               f"max({_quantile(0.99, 'pelton_decision_latency_seconds', 'stage')})", "s"),
        figure("Waiting", "Records in the log that nobody took yet.", f"sum(pelton_lag_records{{{_WHO}}})", "short"),
        figure("Alerts", "Events a second that were not allowed.", f"sum({alerts})", "ops"),
        figure("Problems", "Beside the decisions; /healthz of a worker has the words.",
               f"sum(pelton_problems{{{_WHO}}})", "short", bad_from=1),
    ]  # fmt: skip


def _flow() -> list[Builder[models.Panel]]:
    latency, step = "pelton_decision_latency_seconds", "pelton_step_seconds"
    return [
        lines("Events in and decided", "A second, per stream and task.", [
            (_per_s("pelton_records_taken_total", "app, stream"), "in {{stream}}"),
            (_per_s("pelton_decisions_total", "app, task"), "decided {{task}}"),
        ], "ops"),
        lines("Latency", "From append to committed decision, of each event.", [
            (_quantile(share, latency, "stage"), f"p{share * 100:g} {{{{stage}}}}") for share in (0.5, 0.99)
        ], "s"),
        lines("Lag in records", "In the log and not taken yet.",
              [(f"sum by (stage, stream) (pelton_lag_records{{{_WHO}}})", "{{stage}} {{stream}}")], "short"),
        lines("Time by step, p50", "Of a commit, as its events saw it.",
              [(_quantile(0.5, step, "step"), "{{step}}")], "s"),
        lines("Time by step, p99", "Of a commit, as its events saw it.",
              [(_quantile(0.99, step, "step"), "{{step}}")], "s"),
        lines("Lag in seconds", "Age of the newest event decided, while others wait.",
              [(f"max by (stage) (pelton_lag_seconds{{{_WHO}}})", "{{stage}}")], "s"),
    ]  # fmt: skip


def _decisions() -> list[Builder[models.Panel]]:
    alerts = _per_s("pelton_decisions_total", "task", ', decision!="allow"')
    return [
        lines("Decisions", "A second, by outcome.", [(_per_s("pelton_decisions_total", "decision"), "{{decision}}")],
              "ops", stacked=True),
        lines("Rungs", "Share of events that each set of models decided; less than all of them where time was short.",
              [(f"{_per_s('pelton_rung_decisions_total', 'task, rung')} / on (task) group_left "
                f"{_per_s('pelton_rung_decisions_total', 'task')}", "{{task}} {{rung}}")], "percentunit", stacked=True),
        lines("Alert rate", "Share of events that were not allowed.",
              [(f"{alerts} / {_per_s('pelton_decisions_total', 'task')}", "{{task}}")], "percentunit"),
        lines("Threshold", "Of the newest event; it follows the declared alert rate.",
              [(f"max by (task) (pelton_decision_threshold{{{_WHO}}})", "{{task}}")], "percentunit", highest=1),
    ]  # fmt: skip


def _models() -> list[Builder[models.Panel]]:
    return [
        in_use("Bundle and snapshot in use", "How many workers decide with each.",
               (f"count by ({_SERVING}, rung) (pelton_serving_info{{{_WHO}}})",
                "{{task}} {{bundle}} {{snapshot}} {{rung}}"), WIDTH // 2),
        lines("Quality", "AUC over the newest labels: of what was served, and of the learner itself.",
              [(f"max by (task, of) (pelton_learner_auc{{{_WHO}}})", "{{task}} {{of}}")], "percentunit", 6, highest=1),
        lines("Labels", "A second, by what became of them.",
              [(_per_s("pelton_learner_labels_total", "task, fate"), "{{fate}}"),
               (_per_s("pelton_learner_published_total", "task"), "snapshots published")], "ops", 6),
    ]  # fmt: skip


def _queue() -> list[Builder[models.Panel]]:
    rows, wait = "pelton_batch_rows", "pelton_queue_wait_seconds"
    held = _per_s("pelton_queue_held_seconds_total", "task")
    return [
        lines("Waiting for the models", "Rows; and seconds a second that callers are held because there is no room.", [
            (f"sum by (task) (pelton_queue_rows{{{_WHO}}})", "{{task}}"), (held, "held {{task}} s/s"),
        ], "short"),
        lines("Wait for the models", "From when rows came until the first of them was computed.", [
            (_quantile(share, wait, "task"), f"p{share * 100:g} {{{{task}}}}") for share in (0.5, 0.99)
        ], "s"),
        lines("Rows of a batch", "On average: those of a stream's commit, of several partitions, of requests.",
              [(f"{_per_s(f'{rows}_sum', 'task')} / {_per_s(f'{rows}_count', 'task')}", "{{task}}")], "short"),
    ]  # fmt: skip


def _experts() -> list[Builder[models.Panel]]:
    by = "task, layer"
    load = _per_s("pelton_expert_visits_total", f"{by}, expert")

    def figures(metric: str) -> list[tuple[str, str]]:
        return [(f"max by ({by}) ({metric}{{{_WHO}}})", "{{task}} layer {{layer}}")]

    return [
        lines("Load of each expert", "Visits over those of the mean expert of its layer: 1 is even.",
              [(f"{load} / on ({by}) group_left avg by ({by}) ({load})", "{{task}} layer {{layer}} expert {{expert}}")],
              "short", 12),
        lines("Overflow", "Largest load over the mean, less 1 (MaxVio), of the newest events.",
              figures("pelton_expert_overflow"), "short", 6),
        lines("Entropy of the load", "1 if all experts are visited alike, 0 if one has all.",
              figures("pelton_expert_entropy"), "percentunit", 6, highest=1),
        lines("Dead experts", "Below 1 % of the mean load of the newest events.", figures("pelton_expert_dead"),
              "short", 12),
        in_use("Network computed on", "How many workers use each provider.",
               (f"count by (task, provider) (pelton_network_provider_info{{{_WHO}}})", "{{task}} {{provider}}"), 12),
    ]  # fmt: skip


def _accounts() -> list[Builder[models.Panel]]:
    fates = f"sum by (stream) (pelton_records_total{{{_WHO}}})"
    return [
        lines("What became of the records", "A second; dead letters are late, future and invalid ones.",
              [(_per_s("pelton_records_total", "fate"), "{{fate}}")], "ops"),
        lines("Dead letters", "A second: pelton dlq list APP shows them.",
              [(_per_s("pelton_dead_letters_total", "stage"), "{{stage}}")], "ops"),
        lines("Unaccounted", "Taken less all fates: always 0.",
              [(f"abs(sum by (stream) (pelton_records_taken_total{{{_WHO}}}) - {fates})", "{{stream}}")], "short"),
    ]  # fmt: skip


def _state() -> list[Builder[models.Panel]]:
    def total(metric: str) -> list[tuple[str, str]]:
        return [(f"sum by (windows) ({metric}{{{_WHO}}})", "{{windows}}")]

    return [
        lines("Keys", "That have events in windows.", total("pelton_state_keys"), "short", 6),
        lines("Memory of windows", "Of this process's partitions.", total("pelton_state_bytes"), "bytes", 6),
        lines("Rows, and hot keys", "Events in windows; a second, those dropped because a key has too many.", [
            (f"sum(pelton_state_rows{{{_WHO}}})", "rows"),
            (f"sum(rate(pelton_state_capped_rows_total{{{_WHO}}}[$__rate_interval]))", "dropped/s"),
        ], "short", 6),
        lines("Age of the newest snapshot", "How much a recovery would replay.",
              [(f"max by (stage, partition) (time() - pelton_snapshot_timestamp_seconds{{{_WHO}}})",
                "{{stage}} {{partition}}")], "s", 6),
    ]  # fmt: skip


def _workers() -> list[Builder[models.Panel]]:
    recovery = f"pelton_recovery_seconds_sum{{{_WHO}}}"
    return [
        lines("Commits", "A second.", [(_per_s("pelton_commits_total", "instance"), "{{instance}}")], "ops", 6),
        lines("Partitions and rebalances", "Owned by each worker; changes of who owns what, in five minutes.", [
            (f"sum by (instance) (pelton_partitions{{{_WHO}}})", "{{instance}}"),
            (f"sum(increase(pelton_rebalances_total{{{_WHO}}}[5m]))", "rebalances"),
        ], "short", 6),
        lines("Recoveries", "Since each process began: seconds spent, and how many.", [
            (f"sum by (instance, cause) ({recovery})", "{{instance}} {{cause}} seconds"),
            (f"sum by (instance) ({recovery.replace('_sum', '_count')})", "{{instance}} times"),
        ], "short", 6),
        lines("Snapshots of state", "Tries in five minutes, by outcome.",
              [(f"sum by (outcome) (increase(pelton_snapshots_total{{{_WHO}}}[5m]))", "{{outcome}}")], "short", 6),
        lines("CPU", "Cores in use.",
              [(f"rate(process_cpu_seconds_total{{{_PROCESS}}}[$__rate_interval])", "{{instance}}")], "short", 12),
        lines("Memory", "Resident.", [(f"process_resident_memory_bytes{{{_PROCESS}}}", "{{instance}}")], "bytes", 12),
    ]  # fmt: skip
