"""The language task: its loss, its evaluation, its batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cutaway.language.config import LanguageConfig
from cutaway.language.study import LanguageStudy
from cutaway.runs.folder import Run
from cutaway.training.task import Part


@pytest.fixture(scope="module")
def task(tiny: dict):
    return LanguageStudy().prepare(LanguageConfig(**tiny)).task.eval()


def test_targets_are_the_tokens_one_on(task) -> None:
    tokens, targets = task.batch(3)
    assert tokens.shape == targets.shape == (4, 16)
    assert torch.equal(tokens[:, 1:], targets[:, :-1])


def test_parts_make_up_the_whole_batch(task) -> None:
    whole = task.batch(5).tokens
    parts = [task.batch(5, Part(index, 3)).tokens for index in range(3)]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(whole, task.batch(6).tokens)


def test_validation_loss_is_the_mean_over_its_windows(task) -> None:
    with torch.no_grad():
        measured = task.evaluate()
        losses = []
        for start in task.held_out:
            window = torch.from_numpy(
                np.array(task.files.validation[start : start + 17], dtype=np.int64)
            )
            logits = task.model(window[None, :-1])
            losses.append(torch.nn.functional.cross_entropy(logits[0], window[1:]).item())
    assert measured["val_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    text = task.files.tokenizer.decode(task.files.validation.tolist())
    tokens_per_byte = len(task.files.validation) / task.files.validation_bytes
    assert measured["val_bits_per_byte"] == pytest.approx(
        measured["val_loss"] / math.log(2) * tokens_per_byte
    )
    plain = text.replace("<|endoftext|>", "")
    assert len(plain.encode()) == task.files.validation_bytes


def test_training_learns_the_grammar(backpack_run, gpt2_run) -> None:
    for run in (backpack_run, gpt2_run):
        losses = [x for x in Run.open(run).read()["val_loss"].to_pylist() if x is not None]
        assert losses[0] == pytest.approx(math.log(300), abs=0.2)
        assert losses[-1] < 0.7 * losses[0]


def test_the_run_carries_its_tokenizer_and_what_it_was_made_from(backpack_run, tiny) -> None:
    record = Run.open(backpack_run).record
    assert (backpack_run / "tokenizer" / "tokenizer.json").is_file()
    assert record.parents[0]["id"] == tiny["data"]
    assert len(record.parents[0]["sha256"]) == 64
    assert record.resolved["architecture"]["n_senses"] == 2
