"""What a commit passes on to other stages: rows of each output topic, split by the partition of their key."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from connectors.partitions import partitions_of, split_by_partition
from pipeline.carried import event_schema, fact_schema
from pipeline.engine import Featured, Told
from pipeline.stages import CARRIED, FACTS, Output, Stage

Int64s = NDArray[np.int64]
Parts = Iterator[tuple[int, pa.RecordBatch]]


class Forwarder:
    """Writes what a stage passes on, from one partition.

    Equal keys of a topic go to one partition, in the order of this commit. All in columns, no loop over events.
    """

    def __init__(self, stage: Stage, partition: int) -> None:
        self._stage, self._partition = stage, partition
        self._schemas = {output.topic: self._schema(output) for output in stage.outputs}

    def parts(self, output: Output, featured: Featured) -> Parts:
        """Return (partition, rows) for each partition of an output's topic that gets any."""
        if output.kind == FACTS:
            rows, chosen = self._facts(output, featured.told) if featured.told is not None else (None, None)
        else:
            rows, chosen = self._events(output, featured)
        if rows is None or chosen is None or not rows.num_rows:
            return
        order, bounds = split_by_partition(chosen, self._stage.partitions)
        ordered = rows.take(pa.array(order))
        for partition in np.flatnonzero(np.diff(bounds)).tolist():
            first = int(bounds[partition])
            yield partition, ordered.slice(first, int(bounds[partition + 1]) - first)

    def _schema(self, output: Output) -> pa.Schema:
        if output.kind == FACTS:
            return fact_schema()
        plan = self._stage.plan
        fields = pa.schema([plan.stream.schema.arrow.field(name) for name in output.fields])
        return event_schema(fields, [plan.names[column] for column in output.features], output.kind == CARRIED)

    def _events(self, output: Output, featured: Featured) -> tuple[pa.RecordBatch, Int64s]:
        count = len(featured)
        columns = [featured.rows.column(name) for name in output.fields]
        if output.features:
            values = np.ascontiguousarray(featured.matrix[:, list(output.features)].T)
            together = pa.array(values.ravel())  # one array for all: each column is a piece of it
            columns += [together.slice(n * count, count) for n in range(len(output.features))]
        columns += [_same(self._partition, count), pa.array(featured.offsets)]
        if output.kind == CARRIED:
            append_ms = featured.append_ms if featured.append_ms is not None else np.zeros(count, np.int64)
            columns += [pa.array(featured.floors_ms), pa.array(append_ms)]
        rows = pa.RecordBatch.from_arrays(columns, schema=self._schemas[output.topic])
        source = featured.as_sent if output.to_entrance and featured.as_sent is not None else featured.rows
        keys = source.column(output.key)
        return rows, partitions_of(keys, self._stage.partitions, self._partition)

    def _facts(self, output: Output, told: Told) -> tuple[pa.RecordBatch, Int64s]:
        place = self._stage.fact_keys.index(output.key)
        there = told.keys[:, place] != 0
        keys, fact = told.keys[there, place], told.fact[there]
        columns = [pa.array(keys), *(pa.array(np.ascontiguousarray(each)) for each in fact.T)]
        rows = pa.RecordBatch.from_arrays(
            [*columns, _same(self._partition, len(keys))], schema=self._schemas[output.topic]
        )
        return rows, told.partitions[there, place]


def _same(value: int, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, pa.int64()), count)
