"""A part of the loss that never moves is named."""

from __future__ import annotations

import pyarrow as pa

from cutaway.studies.unmoved import unmoved


def test_a_part_that_never_moves_is_named_and_others_are_not() -> None:
    history = pa.table(
        {
            "step": [0, 1, 2, 3],
            "train_loss": [4.0, 3.0, 2.0, 1.0],
            "orthogonality_loss": [0.0, 0.0, 0.0, 0.0],
            "spectral_penalty": [0.25, 0.25, None, 0.25],
            "sparsity_loss": [0.0, 0.0, 0.0, 1e-9],
            "val_loss": [1.0, 1.0, 1.0, 1.0],  # an evaluation
            "learning_rate": [1.0, 1.0, 1.0, 1.0],  # no loss
            "auxiliary_loss": [None, None, 0.5, 0.5],  # too few rows to say
        }
    )
    assert unmoved(history) == [
        "orthogonality_loss was 0 in all 4 rows that have it: this part of the loss never moved",
        "spectral_penalty was 0.25 in all 3 rows that have it: this part of the loss never moved",
    ]


def test_nothing_is_said_of_two_rows() -> None:
    assert unmoved(pa.table({"step": [0, 1], "train_loss": [1.0, 1.0]})) == []
