"""Which partition each row belongs to, by the text of its key: the same one that keyed Kafka producers choose."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from connectors.columns import valid_rows, views_of
from kernels.partitions import partitions_of_bytes


def partitions_of(keys: pa.Array, partitions: int, of_null: int = 0) -> NDArray[np.int64]:
    """Return the partition of each key.

    Args:
        keys: (n,) texts, whole numbers or truth values; their text is what is hashed: "true", "17".
        partitions: how many there are.
        of_null: the partition of rows without a key.

    Returns:
        (n,) int64, from 0 to `partitions` - 1.
    """
    if partitions == 1:
        return np.zeros(len(keys), np.int64)
    texts = keys if pa.types.is_string(keys.type) or pa.types.is_large_string(keys.type) else keys.cast(pa.string())
    chosen = partitions_of_bytes(*views_of(texts), partitions)
    if keys.null_count:
        chosen[~valid_rows(keys)] = of_null
    return chosen


def split_by_partition(chosen: NDArray[np.int64], partitions: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (n,) the rows by partition, in their order within it, and (partitions + 1,) where each begins."""
    bounds = np.zeros(partitions + 1, np.int64)
    np.cumsum(np.bincount(chosen, minlength=partitions), out=bounds[1:])
    return np.argsort(chosen, kind="stable"), bounds
