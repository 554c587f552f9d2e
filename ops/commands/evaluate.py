"""`pelton evaluate`."""

from pathlib import Path
from typing import Annotated, Any

from typer import Option

from ops.commands.options import App, Data, DataFolder, TaskOption


def _time(name: str, what: str) -> Any:
    return Option(name, metavar="TIME", help=what, show_default=False)


def evaluate(
    app: App,
    data: Data,
    task: TaskOption = None,
    bundle: Annotated[
        str | None,
        Option(metavar="DIR|ID", help="What to judge; else one is trained as of the test.", show_default=False),
    ] = None,
    train_start: Annotated[str | None, _time("--train-start", "Earlier events only fill the windows.")] = None,
    train_end: Annotated[str | None, _time("--train-end", "Later events are not learned from.")] = None,
    test_start: Annotated[str | None, _time("--test-start", "Of the events to judge; the last 30 %.")] = None,
    test_end: Annotated[str | None, _time("--test-end", "Of the events to judge; the last one.")] = None,
    exclude_compromised: Annotated[
        bool, Option("--exclude-compromised", help="Leave out who is known to be a victim by then.")
    ] = False,
    compromised_since: Annotated[
        str | None, _time("--compromised-since", "Earlier frauds make nobody a known victim; the training's start.")
    ] = None,
    out: Annotated[Path, Option("--out", "--plots", metavar="DIR", help="Where report and plots go.")] = Path(
        "evaluation"
    ),
    baseline: Annotated[bool, Option(help="Train gradient boosting on the same features beside it.")] = True,
    epochs: Annotated[int, Option(min=1, help="Of the network, if one is trained.")] = 8,
    seed: Annotated[int, Option(help="Of everything random.")] = 0,
    quick: Annotated[bool, Option("--quick", help="A small network, to try it out.")] = False,
    data_folder: DataFolder = None,
) -> None:
    """Judge models on days they have not seen, beside gradient boosting.

    \b
    For example: pelton evaluate bank.py --data payments.jsonl frauds.jsonl
                 pelton evaluate bank.py --data payments.jsonl frauds.jsonl --test-start 2026-03-01 --plots plots
    """
    from ops.extras import BASELINE, NETWORK, PLOTS, need
    from ops.inputs import open_inputs
    from ops.served import find_bundle
    from ops.settings import Settings
    from ops.terminal import note, ready_kernels, say, stages, table
    from ops.times import read_time
    from ops.training.evaluating import Days, evaluate_files
    from ops.training.evaluation import EvaluationSettings
    from ops.training.training import TrainingSettings, event_task
    from pipeline.loading import load_app

    loaded, settings = load_app(app), Settings.read(data_folder)
    days = Days(
        read_time(train_start), read_time(train_end), read_time(test_start), read_time(test_end), exclude_compromised,
        read_time(compromised_since),
    )  # fmt: skip
    chosen, opened = event_task(loaded, task), open_inputs(loaded, data)
    judged = find_bundle(loaded, settings, bundle) if bundle is not None else None
    wanted = EvaluationSettings(
        baseline=baseline, seed=seed, training=TrainingSettings(epochs=epochs, seed=seed, quick=quick)
    )
    if judged is None and chosen.model is not None:
        need(NETWORK, "the network is trained with it; --bundle judges one that is there")
    need(BASELINE * baseline, "gradient boosting needs it; --no-baseline leaves that out")
    need(PLOTS, "plots are drawn with it")
    ready_kernels()
    tokeniser, _ = settings.secrets(loaded, make=True)
    with stages() as step:
        found = evaluate_files(loaded, chosen, opened, days, out, judged, wanted, step, tokeniser)
    say(f"{found.events:,} events judged, {found.positives:,} positive, {found.left_out:,} left out; "
        + ", ".join(f"{name} {value}" for name, value in found.protocol.in_words().items()))  # fmt: skip
    table(*found.table())
    for each in found.notes:
        note(each)
    say(f"bundle {found.bundle}; report {found.report_path}" + "".join(f", {path}" for path in found.plots.values()))
