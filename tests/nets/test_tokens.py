"""Several texts, or rows of token ids, as one batch; long texts in windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cutaway.activations.capture import capture
from cutaway.base.errors import UserError
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model

TEXTS = ["the cat sees the river", "the quiet sea", "and the old king paints the river again"]


@pytest.fixture(scope="module")
def model(llama_with_bos: Path) -> Model:
    return open_model(llama_with_bos, device="cpu")


def test_several_texts_are_padded_on_the_right(model: Model) -> None:
    batch = model.tokens(TEXTS)
    assert len(batch) == 3
    assert batch.texts.tolist() == [0, 1, 2]
    for row, text in enumerate(TEXTS):
        alone = model.tokens(text)[0]
        length = int(batch.lengths[row])
        assert batch.ids[row, :length].tolist() == alone.tolist()
        assert batch.attention_mask[row].tolist() == [1] * length + [0] * (batch.shape[1] - length)


@pytest.mark.parametrize("special", [True, False])
def test_special_tokens_are_as_for_one_text(model: Model, special: bool) -> None:
    batch = model.tokens(TEXTS, special=special)
    alone = [model.tokens(text, special=special).shape[1] for text in TEXTS]
    assert batch.lengths.tolist() == alone
    assert (batch.ids[:, 0] == model.tokens("")[0, 0]).all().item() is special


def test_states_and_logits_of_a_batch_are_those_of_each_text(model: Model) -> None:
    batch = model.tokens(TEXTS)
    states, logits = capture(model, batch, "all"), model.logits(batch)
    in_parts = capture(model, batch, "all", batch_size=2)
    for row, text in enumerate(TEXTS):
        alone = model.tokens(text)
        length = alone.shape[1]
        for site, state in capture(model, alone, "all").items():
            torch.testing.assert_close(states[site][row, :length], state[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(in_parts[site][row, :length], state[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            logits[row, :length], model.logits(alone)[0], rtol=1e-4, atol=1e-5
        )


def test_rows_of_ids_are_taken_as_they_are(model: Model) -> None:
    rows = [[5, 6, 7], np.array([8, 9]), torch.tensor([10]), (11, 12)]
    batch = model.tokens(rows)
    assert batch.lengths.tolist() == [3, 2, 1, 2]
    assert batch.numpy()[0].tolist() == [5, 6, 7]
    assert batch.ids[1, :2].tolist() == [8, 9]
    mixed = model.tokens(["the sea", [5, 6]])
    assert mixed.ids[0].tolist()[: int(mixed.lengths[0])] == model.tokens("the sea")[0].tolist()


def test_a_part_of_a_batch_is_one(model: Model) -> None:
    batch = model.tokens(TEXTS)
    assert torch.equal(batch[1:].ids, batch.ids[1:])
    assert batch[-1].texts.tolist() == [2]
    assert len(batch[0]) == 1
    assert [row.texts.tolist() for row in batch] == [[0], [1], [2]]
    for row in (3, -4):
        with pytest.raises(IndexError):
            batch[row]


def test_a_long_text_in_windows(model: Model) -> None:
    text = " ".join(TEXTS * 6)
    whole = model.tokens(text, special=False)[0].tolist()
    with pytest.raises(UserError, match=r"read them in windows: model\.windows"):
        capture(model, model.tokens(text), 0)
    windows = model.windows(text, 10)
    (bos,) = model.reads.special[0]
    assert windows.shape[1] == 10
    found = []
    for row, length in zip(windows.ids.tolist(), windows.lengths.tolist(), strict=True):
        assert row[0] == bos
        found += row[1:length]
    assert found == whole
    assert capture(model, windows, 0)[0].shape == (len(windows), 10, model.width)
    both = model.windows([text, "the sea"], 8, special=False)
    assert both.texts.tolist() == [0] * -(-len(whole) // 8) + [1]
    assert model.windows(text).shape[1] == model.max_length


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "text: a list without texts; expected one or more"),
        (["the sea", []], "text 1: a list without token ids; every row needs one"),
        (["the sea", 3.5], "text 1: float, expected a text or a list of token ids"),
        ([torch.ones(2)], "text 0: torch.float32 of shape (2,), expected token ids (T,)"),
        ([[[1, 2]]], "text 0: torch.int64 of shape (1, 2), expected token ids (T,)"),
        ([[True, False]], "text 0: torch.bool of shape (2,), expected token ids (T,)"),
        (["the sea", b"the sea"], "text 1: bytes, expected a text or a list of token ids"),
        (b"the sea", "text: bytes, expected a text"),
        (3, "text: int, expected a text"),
        (["\ud800"], "text 0: holds half of a surrogate pair, which is no character"),
    ],
)
def test_what_is_no_text_is_named(model: Model, given: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        model.tokens(given)
    assert str(error.value) == message


@pytest.mark.parametrize("length", [0, 1, -3, 10**6, 2.5, True])
def test_a_window_that_cannot_be_read_is_refused(model: Model, length: Any) -> None:
    message = rf"length = {length}: expected a whole number from 2 to {model.max_length}"
    with pytest.raises(UserError, match=message):
        model.windows("the sea", length)


def test_a_mask_beside_a_batch_is_refused(model: Model) -> None:
    batch = model.tokens(TEXTS)
    with pytest.raises(UserError, match="attention_mask: these tokens have their own"):
        capture(model, batch, 0, batch.attention_mask)


def test_a_text_without_tokens_is_refused_in_a_batch(gpt2_run: Path) -> None:
    plain = open_model(gpt2_run, device="cpu")
    with pytest.raises(UserError, match="text 1: a text without tokens; every row needs one"):
        plain.tokens(["the sea", ""])
