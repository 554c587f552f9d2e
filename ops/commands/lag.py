"""`pelton lag`."""

from ops.commands.options import App, DataFolder, Kafka


def lag(app: App, kafka: Kafka = None, data_folder: DataFolder = None) -> None:
    """Show how far an app is in each of its input partitions, and who works there.

    \b
    For example: pelton lag bank.py --kafka localhost:9092
    """
    from ops.views.lag import lag_on_kafka, lag_on_log, show
    from pipeline.loading import load_app

    loaded = load_app(app)
    show(lag_on_kafka(loaded, kafka) if kafka is not None else lag_on_log(loaded, data_folder))
