"""The metrics that are counted as things happen: their names, labels and what they say."""

from __future__ import annotations

from ops.metrics.families import Counter, Gauge, Histogram

PLACE = ("app", "stage", "partition")
LATENCY_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15,
    0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
)  # fmt: skip
ROWS = tuple(1 << power for power in range(11))
LONG_S = (0.01, 0.03, 0.1, 0.3, 1, 3, 5, 10, 30, 100, 300, 1000)


class Catalogue:
    """One of each; `stage` is a stream, or a stream and the key of a later stage."""

    def __init__(self) -> None:
        self.info = Gauge("pelton_app_info", "The app that runs, on which log, by which version.",
                          ("app", "log", "version"))  # fmt: skip
        self.taken = Counter("pelton_records_taken_total", "Records taken from the log.", (*PLACE, "stream"))
        self.records = Counter(
            "pelton_records_total", "What became of the records taken; all fates together are those taken.",
            (*PLACE, "stream", "fate"),
        )  # fmt: skip
        self.dead = Counter("pelton_dead_letters_total", "Records set aside as dead letters.", PLACE)
        self.decisions = Counter("pelton_decisions_total", "Events decided, by decision.", ("app", "task", "decision"))
        self.rungs = Counter(
            "pelton_rung_decisions_total", "Events decided, by which models were in time for it.",
            ("app", "task", "rung"),
        )  # fmt: skip
        self.threshold = Gauge("pelton_decision_threshold", "The threshold of the newest event.", (*PLACE, "task"))
        self.latency = Histogram(
            "pelton_decision_latency_seconds", "From append to committed decision, per event.", PLACE[:2], LATENCY_S
        )
        self.steps = Histogram(
            "pelton_step_seconds", "Time of each part of a commit, counted once for each event that waited for it.",
            (*PLACE[:2], "step"), LATENCY_S,
        )  # fmt: skip
        self.batches = Histogram("pelton_batch_rows", "Rows of each batch that models computed.", ("app", "task"), ROWS)
        self.waits = Histogram(
            "pelton_queue_wait_seconds", "From when rows came to the models until the first of them was computed.",
            ("app", "task"), LATENCY_S,
        )  # fmt: skip
        self.held = Counter(
            "pelton_queue_held_seconds_total", "Time that callers waited because a task's lane was full.",
            ("app", "task"),
        )  # fmt: skip
        self.busy = Counter(
            "pelton_step_busy_seconds_total", "Time spent in each part of commits.", (*PLACE[:2], "step")
        )
        self.commits = Counter("pelton_commits_total", "Commits: outputs and manifest as one.", PLACE)
        self.rebalances = Counter("pelton_rebalances_total", "Changes of who owns which partitions.", ("app",))
        self.recoveries = Histogram(
            "pelton_recovery_seconds", "Time to take the state from snapshot and log, by what made it necessary.",
            (*PLACE[:2], "cause"), LONG_S,
        )  # fmt: skip
        self.replayed = Counter(
            "pelton_recovery_replayed_records_total", "Records replayed to recover state.", PLACE[:2]
        )
        self.snapshots = Counter("pelton_snapshots_total", "Tries to write a snapshot of state.", (*PLACE, "outcome"))
        self.snapshot_time = Gauge(
            "pelton_snapshot_timestamp_seconds", "When the newest snapshot was written; before it, the recovery.", PLACE
        )
        self.snapshot_bytes = Gauge(
            "pelton_snapshot_size_bytes", "Written for the newest snapshot: what changed.", PLACE
        )
        models = ("app", "task", "bundle", "snapshot", "rung")
        self.serving_info = Gauge("pelton_serving_info", "The models that decide in this process.", models)
        self.serving_time = Gauge("pelton_serving_timestamp_seconds", "Since when they do.", models)
        self.changes = Counter("pelton_model_changes_total", "How often other models began to decide.", ("app", "task"))

    def all(self) -> list[Counter | Gauge | Histogram]:
        """Return all of them."""
        return list(vars(self).values())
