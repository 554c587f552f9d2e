"""`pelton run`."""

from typing import Annotated

from typer import Option

from ops.commands.options import App, DataFolder, Gpu, Kafka, MetricsHost, MetricsPort, State

Output = Annotated[
    list[str] | None,
    Option(
        "--output", "-o", metavar="FILE|URL", show_default=False,
        help="Also write decisions to a .jsonl file, a folder/ of hourly Parquet, or a database URL.",
    ),
]  # fmt: skip
AtLeastOnce = Annotated[
    bool, Option("--at-least-once", help="On Kafka: no transactions; a crash may repeat decisions.")
]  # fmt: skip
SessionTimeout = Annotated[
    float,
    Option(
        "--session-timeout", metavar="SECONDS", envvar="PELTON_KAFKA_SESSION_S", min=1.0,
        help="On Kafka: how long a silent worker keeps its partitions.",
    ),
]  # fmt: skip


def run(
    app: App,
    output: Output = None,
    learn: Annotated[bool, Option("--learn/--no-learn", help="Learn from labels as they come.")] = True,
    until_idle: Annotated[bool, Option("--until-idle", help="End when everything in the log is decided.")] = False,
    plain: Annotated[bool, Option("--plain", help="Print lines, although this is a terminal.")] = False,
    metrics_port: MetricsPort = 0,
    metrics_host: MetricsHost = "127.0.0.1",
    kafka: Kafka = None,
    at_least_once: AtLeastOnce = False,
    session_s: SessionTimeout = 10.0,
    state: State = None,
    gpu: Gpu = None,
    data_folder: DataFolder = None,
) -> None:
    """Decide the records of the log as they come, until Ctrl-C; a stop at any moment loses nothing.

    On Kafka this is one worker: start as many as you like, up to the number of partitions.

    \b
    For example: pelton run bank.py --output decisions.jsonl
                 pelton run bank.py --kafka localhost:9092
    """  # fmt: skip
    import shutil

    from ops.settings import Settings
    from ops.terminal import note, ready_kernels, say
    from ops.views.live_words import folded
    from pipeline.loading import load_app

    def noted(text: str) -> None:
        note(text.replace("APP", app))

    loaded, settings = load_app(app), Settings.read(data_folder, state=state, gpu=gpu)
    metrics_at = (metrics_host, metrics_port) if metrics_port else None
    if kafka is not None:
        from ops.brokers import kafka_settings
        from ops.kafka.running import KafkaRun, run_on_kafka

        how = KafkaRun(
            kafka_settings(kafka), output or [], at_least_once, session_s, learn, until_idle, plain, metrics_at
        )
        ready_kernels()
        done = run_on_kafka(loaded, settings, how, noted)
    else:
        from ops.running import run_app

        ready_kernels()
        done = run_app(loaded, settings, output or [], learn, until_idle, plain, noted, metrics_at)
    say()
    for line in folded(done, shutil.get_terminal_size((100, 24)).columns):
        say(line)
