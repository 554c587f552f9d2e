"""`pelton topics`."""

from ops.commands.options import DataFolder


def topics(data_folder: DataFolder = None) -> None:
    """List the topics of the log: partitions, offsets, retention.

    \b
    For example: pelton topics
    """
    from ops.settings import Settings
    from ops.terminal import note, say, table
    from pipeline.durations import in_words

    settings = Settings.read(data_folder)
    with settings.open_log() as log:
        rows = [
            (
                topic.name, partition, begin := log.begin(topic.name, partition), end := log.end(topic.name, partition),
                end - begin, in_words(topic.retention_ms) if topic.retention_ms else "forever",
                "yes" if topic.sealed else "no",
            )
            for topic in log.topics() for partition in range(topic.partitions)
        ]  # fmt: skip
    if not rows:
        say(f"The log {settings.log} has no topics yet. Put records into it: pelton append APP FILE")
        return
    table(("topic", "partition", "begin", "end", "records", "keeps", "encrypted"), rows)
    note(f"{settings.log}, {settings.log.stat().st_size / 1e6:,.1f} MB")
