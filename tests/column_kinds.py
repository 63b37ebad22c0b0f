"""Ways in which people hold columns and tables, made from lists; a law tries all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch

try:
    import pandas
except ImportError:  # an extra of the tests
    pandas = None


def _locked(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


KINDS: dict[str, Callable[[list], Any]] = {
    "list": list,
    "tuple": tuple,
    "generator": lambda values: (one for one in values),
    "array": np.array,
    "array of objects": lambda values: np.array(values, dtype=object),
    "array of the other byte order": lambda values: (array := np.array(values)).astype(
        array.dtype.newbyteorder("S")
    ),
    "long doubles": lambda values: (
        np.array(values, dtype=np.longdouble) if type(values[0]) is float else np.array(values)
    ),
    "read-only array": lambda values: _locked(np.array(values)),
    "masked array": lambda values: np.ma.array(values, mask=[False] * len(values)),
    "reversed view": lambda values: np.array(values[::-1])[::-1],
    "tensor": lambda values: None if isinstance(values[0], str) else torch.tensor(values),
    "arrow": pa.array,
    "chunked": lambda values: pa.chunked_array([values[:1], values[1:]]),
}
TABLES: dict[str, Callable[[dict], Any]] = {
    "mapping": dict,
    "records": lambda held: [dict(zip(held, row)) for row in zip(*held.values())],
    "arrow": pa.table,
    "record batch": lambda held: pa.record_batch(held),
}

if pandas is not None:

    def shuffled(count: int) -> list[int]:
        """An index that is a permutation of the positions, none where it was."""
        return [(7 * one + 3) % count if count % 7 else count - 1 - one for one in range(count)]

    KINDS |= {
        "series": pandas.Series,
        "shuffled series": lambda values: pandas.Series(values, index=shuffled(len(values))),
        "selected series": lambda values: pandas.Series(values, index=range(9, 9 + len(values))),
        "repeated index": lambda values: pandas.Series(values, index=[0] * len(values)),
        "named index": lambda values: pandas.Series(
            values, index=[f"row {one}" for one in range(len(values), 0, -1)]
        ),
        "categorical": lambda values: pandas.Series(
            values, index=shuffled(len(values)), dtype="category"
        ),
        "nullable": lambda values: pandas.Series(
            values, index=shuffled(len(values))
        ).convert_dtypes(),
        "index": pandas.Index,
    }
    TABLES |= {
        "frame": pandas.DataFrame,
        "shuffled frame": lambda held: pandas.DataFrame(
            held, index=shuffled(len(next(iter(held.values()))))
        ),
    }
