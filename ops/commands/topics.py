"""`pelton topics`."""

from typing import Annotated

import typer
from typer import Argument, Option

from ops.commands.options import App, DataFolder, Kafka

topics = typer.Typer(help="Topics: make those that an app needs, list them, look at them.")
AnyApp = Annotated[str | None, Argument(metavar="[APP]", help="Only the topics of this app.", show_default=False)]


@topics.callback(invoke_without_command=True)
def _alone(context: typer.Context, data_folder: DataFolder = None, kafka: Kafka = None) -> None:
    if context.invoked_subcommand is None:
        listed(None, data_folder, kafka)


@topics.command()
def create(
    app: App,
    partitions: Annotated[int, Option(help="Of each topic: as many workers can share the app.", min=1)] = 1,
    retention: Annotated[
        str | None,
        Option(
            help="Of streams: 30d; if not given, 7d or what windows need on Kafka, for ever on the embedded log.",
            show_default=False,
        ),
    ] = None,
    copies: Annotated[
        int | None, Option(help="Brokers that hold each partition; the cluster's default.", min=1, show_default=False)
    ] = None,
    data_folder: DataFolder = None,
    kafka: Kafka = None,
) -> None:
    """Make the topics that an app needs and that are not there.

    \b
    For example: pelton topics create bank.py --partitions 8 --kafka localhost:9092
    """
    from ops.terminal import counted, say
    from ops.views.topics import make_on_kafka, make_on_log
    from pipeline.loading import load_app

    loaded = load_app(app)
    if kafka is not None:
        made = make_on_kafka(loaded, kafka, partitions, retention, copies)
    else:
        made = make_on_log(loaded, data_folder, partitions, retention)
    say(f"{counted(len(made), 'topic')} made{': ' if made else '; all were there'}{', '.join(made)}")


@topics.command("list")
def listed(app: AnyApp = None, data_folder: DataFolder = None, kafka: Kafka = None) -> None:
    """List topics: partitions, offsets, retention.

    \b
    For example: pelton topics list bank.py --kafka localhost:9092
    """
    from ops.views.topics import list_of_kafka, list_of_log

    if kafka is not None:
        list_of_kafka(kafka, app)
    else:
        list_of_log(data_folder, app)


@topics.command()
def describe(app: App, kafka: Kafka = None, data_folder: DataFolder = None) -> None:
    """Show what each topic of an app is for, how it is kept, and what is wrong with it.

    \b
    For example: pelton topics describe bank.py --kafka localhost:9092
    """
    from ops.views.topics import describe_on_kafka, list_of_log

    if kafka is not None:
        describe_on_kafka(kafka, app)
    else:
        list_of_log(data_folder, app)
