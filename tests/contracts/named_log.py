"""A log whose topics and groups carry a mark: tests that share a broker have each their own."""

from dataclasses import replace

from connectors.log import LogError


class NamedLog:
    """Adds the mark to every name on its way in, and takes it away on its way out, from messages too."""

    def __init__(self, log, mark):
        self.log, self._mark = log, mark

    def __enter__(self):
        self.log.__enter__()
        return self

    def __exit__(self, *error):
        self.log.__exit__(*error)

    def create_topic(self, name, *args, **named):
        if " " in name:
            return self.log.create_topic(name, *args, **named)
        return self._out(self.log.create_topic, name + self._mark, *args, **named)

    def topics(self):
        return [replace(info, name=self._bare(info.name)) for info in self.log.topics() if self._mark in info.name]

    def wait(self, after, timeout_s):
        marked = {(topic + self._mark, partition): offset for (topic, partition), offset in after.items()}
        return self._out(self.log.wait, marked, timeout_s)

    def transaction(self, group, *args, **named):
        return _Marked(self, self.log.transaction(group + self._mark, *args, **named))

    def __getattr__(self, name):
        method = getattr(self.log, name)
        return lambda topic, *args, **named: self._out(method, topic + self._mark, *args, **named)

    def _out(self, method, *args, **named):
        try:
            found = method(*args, **named)
        except LogError as error:
            raise type(error)(self._bare(str(error))) from error
        if hasattr(found, "topic"):
            return replace(found, topic=self._bare(found.topic))
        return replace(found, name=self._bare(found.name)) if hasattr(found, "partitions") else found

    def _bare(self, text):
        return text.replace(self._mark, "")


class _Marked:
    """A transaction, and the block around it."""

    def __init__(self, log, manager):
        self._log, self._manager = log, manager

    def __enter__(self):
        self._transaction = self._manager.__enter__()
        return self

    def __exit__(self, *error):
        return self._log._out(self._manager.__exit__, *error)

    def append(self, topic, *args, **named):
        self._log._out(self._transaction.append, topic + self._log._mark, *args, **named)

    def append_rows(self, topic, *args, **named):
        self._log._out(self._transaction.append_rows, topic + self._log._mark, *args, **named)

    def put_manifest(self, payload):
        self._log._out(self._transaction.put_manifest, payload)

    @property
    def base_offsets(self):
        return self._transaction.base_offsets
