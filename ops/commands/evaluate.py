"""`pelton evaluate`."""

from pathlib import Path
from typing import Annotated, Any

from typer import Option

from ops.commands.options import EPOCHS, App, Data, DataFolder, TaskOption


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
    epochs: Annotated[
        int | None,
        Option(min=1, help="Of the network, if one is trained: 8, 60 on images, 10 on texts.", show_default=False),
    ] = None,
    seed: Annotated[int, Option(help="Of everything random.")] = 0,
    quick: Annotated[bool, Option("--quick", help="A small network, to try it out.")] = False,
    masks: Annotated[
        Path | None,
        Option(
            metavar="DIR", help="On images: ID.png, white where the defect is, to judge heat maps.", show_default=False
        ),
    ] = None,
    data_folder: DataFolder = None,
) -> None:
    """Judge models on days they have not seen, beside gradient boosting; on images, with heat maps.

    \b
    For example: pelton evaluate bank.py --data payments.jsonl frauds.jsonl
                 pelton evaluate bank.py --data payments.jsonl frauds.jsonl --test-start 2026-03-01 --plots plots
    """
    from ops.inputs import open_inputs
    from ops.served import find_bundle
    from ops.settings import Settings
    from ops.times import read_time
    from ops.training.by_kind import epochs_of
    from ops.training.evaluating import Days
    from ops.training.evaluation import EvaluationSettings
    from ops.training.training import TrainingSettings
    from pipeline.app import Task
    from pipeline.defects import DefectTask
    from pipeline.loading import load_app

    loaded, settings = load_app(app), Settings.read(data_folder)
    days = Days(
        read_time(train_start), read_time(train_end), read_time(test_start), read_time(test_end), exclude_compromised,
        read_time(compromised_since),
    )  # fmt: skip
    opened, asked = open_inputs(loaded, data), loaded.task(task)
    judged = find_bundle(loaded, settings, bundle) if bundle is not None else None
    if not isinstance(asked, Task):
        training = TrainingSettings(epochs=epochs or epochs_of(asked), seed=seed, quick=quick)
        if isinstance(asked, DefectTask):
            _defects(loaded, asked, opened, days, out, judged, masks, settings, training)
        else:
            _support(loaded, asked, opened, days, out, judged, baseline, settings, training)
        return
    training = TrainingSettings(epochs=epochs or EPOCHS, seed=seed, quick=quick)
    _events(loaded, asked, opened, days, out, judged, EvaluationSettings(baseline, True, training, seed), settings)


def _events(
    loaded: Any, chosen: Any, opened: Any, days: Any, out: Path, judged: Any, wanted: Any, settings: Any
) -> None:
    from ops.extras import BASELINE, NETWORK, PLOTS, need
    from ops.terminal import note, ready_kernels, say, stages, table
    from ops.training.evaluating import evaluate_files

    if judged is None and chosen.model is not None:
        need(NETWORK, "the network is trained with it; --bundle judges one that is there")
    need(BASELINE * wanted.baseline, "gradient boosting needs it; --no-baseline leaves that out")
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


def _defects(
    loaded: Any, task: Any, opened: Any, days: Any, out: Path, bundle: Any, masks: Path | None, settings: Any,
    training: Any,
) -> None:  # fmt: skip
    from ops.extras import NETWORK, PLOTS, need
    from ops.terminal import facts, note, ready_kernels, say, stages, table
    from ops.training.defect_evaluation import evaluate_defects

    need(NETWORK if bundle is None else (), "the network is trained with it; --bundle judges one that is there")
    need(PLOTS, "plots are drawn with it")
    ready_kernels()
    tokeniser, _ = settings.secrets(loaded, make=True)
    with stages() as step:
        found = evaluate_defects(loaded, task, opened, days, out, bundle, training, masks, step, tokeniser)
    say(f"{found.images:,} images judged, {found.masks:,} of them with a mask")
    if found.unread:
        note(f"{found.unread:,} images lie where they could not be read; they are left out")
    table(*found.table())
    facts([(name, f"{value:.4f}") for name, value in found.figures.items()])
    say(f"bundle {found.bundle}; report {found.report_path}" + "".join(f", {path}" for path in found.plots.values()))


def _support(
    loaded: Any, task: Any, opened: Any, days: Any, out: Path, bundle: Any, baseline: bool, settings: Any, training: Any
) -> None:
    from ops.extras import BASELINE, NETWORK, PLOTS, need
    from ops.terminal import ready_kernels, say, stages, table
    from ops.training.support_evaluation import evaluate_support

    trains = bundle is None and task.intent is not None
    need(NETWORK if trains else (), "the network is trained with it; --bundle judges one that is there")
    need(BASELINE * baseline, "TF-IDF needs it; --no-baseline leaves that out")
    need(PLOTS, "plots are drawn with it")
    ready_kernels()
    tokeniser, _ = settings.secrets(loaded, make=True)
    with stages() as step:
        found = evaluate_support(loaded, task, opened, days, out, bundle, training, baseline, step, tokeniser)
    say(f"{found.messages:,} messages judged")
    table(*found.table())
    say(f"bundle {found.bundle}; report {found.report_path}" + "".join(f", {path}" for path in found.plots.values()))
