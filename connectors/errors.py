"""What can go wrong at the edge, in words for the person who must mend it."""


class ConnectorError(ValueError):
    """A mistake in what was given to a source, sink or codec; the message says what to do."""


class SchemaError(ConnectorError):
    """A stream's fields are declared wrongly."""
