"""`pelton evaluate`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from ops.commands.options import App, Data, DataFolder, Encoder

ALL = "all"


def _time(name: str, what: str) -> Any:
    return Option(name, metavar="TIME", help=what, show_default=False)


def evaluate(
    app: App,
    data: Data,
    task: Annotated[
        str | None,
        Option(metavar="TASK", help="Which task, if the app has several; all: each of them.", show_default=False),
    ] = None,
    bundle: Annotated[
        str | None,
        Option(
            metavar="DIR|ID",
            show_default=False,
            help="What to judge, or where pelton train wrote it; else one is trained as of the test, of all tasks what "
            "serves.",
        ),
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
    baseline: Annotated[bool, Option(help="Judge what learns the same history without Pelton beside it.")] = True,
    epochs: Annotated[
        int | None,
        Option(min=1, help="Of the network, if one is trained: 8, 60 on images, 10 on texts.", show_default=False),
    ] = None,
    seed: Annotated[int, Option(help="Of everything random.")] = 0,
    quick: Annotated[bool, Option("--quick", help="A small network, to try it out.")] = False,
    encoder: Encoder = None,
    distill: Annotated[bool, Option("--distill", help="Let a small network learn from the one, judge both.")] = False,
    masks: Annotated[
        Path | None,
        Option(
            metavar="DIR", help="On images: ID.png, white where the defect is, to judge heat maps.", show_default=False
        ),
    ] = None,
    data_folder: DataFolder = None,
) -> None:
    """Judge models on days they have not seen, beside a baseline that learns the same history.

    That is gradient boosting on the same features, TF-IDF on the same messages, or boosting on edges and brightness of
    the same images. --task all judges every task of the app that has a bundle, one table after another.

    \b
    For example: pelton evaluate bank.py --data payments.jsonl frauds.jsonl
                 pelton evaluate bank.py --data payments.jsonl frauds.jsonl --test-start 2026-03-01 --plots plots
                 pelton evaluate all.py --data *.jsonl --task all --bundle bundles
    """
    from ops.times import read_time
    from ops.training.evaluating import Days
    from ops.training.found import EvaluationSettings
    from ops.training.training import TrainingSettings

    days = Days(
        read_time(train_start), read_time(train_end), read_time(test_start), read_time(test_end), exclude_compromised,
        read_time(compromised_since),
    )  # fmt: skip
    training = TrainingSettings(epochs=epochs, seed=seed, quick=quick, encoder=encoder, distill=distill)
    _evaluate(
        app, data, task, bundle, days, EvaluationSettings(baseline, True, training, seed, masks), out, data_folder
    )


def _evaluate(
    app: str, data: list[str], task: str | None, bundle: str | None, days: Any, wanted: Any, out: Path,
    data_folder: Path | None,
) -> None:  # fmt: skip
    """Judge the task that was asked for, or all."""
    from ops.inputs import open_inputs
    from ops.settings import Settings
    from ops.terminal import heading, note, say
    from ops.training.judging import bundle_for, bundles_to_judge
    from pipeline.loading import load_app

    loaded, settings = load_app(app), Settings.read(data_folder)
    opened = open_inputs(loaded, data)
    if task != ALL or ALL in [each.name for each in loaded.tasks]:
        asked = loaded.task(task)
        judged = bundle_for(loaded, settings, asked, bundle) if bundle is not None else None
        _judge(loaded, asked, opened, days, out, judged, wanted, settings)
        return
    several, left_out = bundles_to_judge(loaded, settings, opened, bundle)
    for name, why in left_out.items():
        note(f"{name} is left out: {why}")
    for number, (each, its) in enumerate(several):
        say(("\n" if number else "") + heading(each.name))
        own_days = replace(days, exclude_compromised=days.exclude_compromised and each.entity is not None)
        _judge(loaded, each, opened, own_days, out / each.name, its, wanted, settings)


def _judge(loaded: Any, task: Any, opened: Any, days: Any, out: Path, bundle: Any, wanted: Any, settings: Any) -> None:
    """Judge one task and print what was found."""
    from ops.extras import BASELINE, NETWORK, PLOTS, need
    from ops.terminal import note, ready_kernels, say, stages, table
    from ops.training.judging import judge
    from ops.views.network import load_table

    if bundle is None and task.model is not None and getattr(task, "intent", task.label) is not None:
        need(NETWORK, "the network is trained with it; --bundle judges one that is there")
    need(BASELINE * wanted.baseline, "the baseline needs it; --no-baseline leaves that out")
    need(PLOTS, "plots are drawn with it")
    ready_kernels()
    tokeniser, _ = settings.secrets(loaded, make=True)
    with stages() as step:
        found = judge(loaded, task, opened, days, out, bundle, wanted, step, tokeniser)
    say(found.summary())
    for each in found.tables():
        table(*each)
    if found.experts is not None:
        say(f"experts, as counted in {found.experts.where}:")
        table(*load_table(found.experts.visits))
    for told in found.notes:
        note(told)
    say(f"bundle {found.bundle}; report {found.report_path}" + "".join(f", {path}" for path in found.plots.values()))
