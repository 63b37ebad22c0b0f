"""A dictionary takes states and features as people hold them, and says what it cannot take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from cutaway.base.errors import UserError
from cutaway.dictionaries.architectures.registry import ARCHITECTURES
from dictionaries.small_dictionaries import small, states

KINDS: dict[str, Callable[[torch.Tensor], Any]] = {
    "list": torch.Tensor.tolist,
    "array": torch.Tensor.numpy,
    "doubles": lambda x: x.double().numpy(),
    "other byte order": lambda x: x.numpy().astype(">f4"),
    "read-only": lambda x: np.frombuffer(x.numpy().tobytes(), np.float32).reshape(x.shape),
    "rows in a list": list,
    "sparse tensor": torch.Tensor.to_sparse,
    "arrow": lambda x: pa.table({str(n): x[:, n].numpy() for n in range(x.shape[1])}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_states_and_features_of_every_kind_are_read_as_a_tensor_is(name: str, kind: str) -> None:
    made, x = small(name), states(6)
    features = made.encode(x)
    given = KINDS[kind]
    for found, wanted in (
        (made.encode(given(x)), features),
        (made(given(x)), made(x)),
        (made.encode_sparse(given(x)).dense(), features),
        (made.decode(given(features)), made.decode(features)),
    ):
        torch.testing.assert_close(found, wanted)


@torch.no_grad()
def test_whole_numbers_are_reconstructed_without_being_rounded() -> None:
    made, x = small("topk"), states(6).round()
    torch.testing.assert_close(made(x.long()), made(x))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.tensor(1.0), "a single number, expected rows of"),
        (torch.ones(2, 3), "of width 3, and the dictionary is made for"),
        (torch.ones(2, 8, dtype=torch.complex64), "complex numbers, expected rows of"),
        ([["a", "b"]], "values, expected numbers"),
        ([[1.0, 2.0], [3.0]], "rows of different lengths"),
        (None, "NoneType, expected a column of values"),
    ],
)
@pytest.mark.parametrize("door", ["encode", "forward", "decode"])
def test_what_holds_no_states_is_refused(door: str, given: Any, said: str) -> None:
    with pytest.raises(UserError, match=f"^(states|features).*{said}"):
        getattr(small("topk"), door)(given)
