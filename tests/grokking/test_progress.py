from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from cutaway.base.errors import UserError
from cutaway.grokking.data import all_pairs, results, split
from cutaway.grokking.group import circle
from cutaway.grokking.progress import (
    excluded_loss,
    key_frequencies,
    progress_measures,
    restricted_loss,
    sum_power,
)
from cutaway.nets.reference import load
from grokking.small_runs import small_run

OPERATIONS = ("add", "subtract", "multiply", "divide")


def ideal(operation: str, p: int, scales: dict[int, float]) -> torch.Tensor:
    """Σ_k scale_k cos w_k(i + j - c) on the operation's circle; elsewhere 0."""
    on = circle(operation, p)
    at = torch.arange(on.n, dtype=torch.float64)
    angle = 2 * math.pi / on.n * (at[:, None, None] + at[None, :, None] - at)
    table = torch.zeros(p, p, p, dtype=torch.float64)
    logits = sum(scale * torch.cos(k * angle) for k, scale in scales.items())
    table[on.first[:, None, None], on.second[None, :, None], on.classes] = logits
    return table


def noise(p: int) -> torch.Tensor:
    return torch.randn(p, p, p, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def loss_of(table: torch.Tensor, operation: str, pairs: torch.Tensor) -> float:
    labels = results(pairs, table.shape[0], operation)
    return F.cross_entropy(table[tuple(pairs.unbind(-1))], labels).item()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_ideal_circuit_is_found_kept_and_taken_out(operation):
    p, scales = 23, {3: 5.0, 7: 4.0, 10: 3.0}
    table = ideal(operation, p, scales)
    on = circle(operation, p)
    keys = key_frequencies(table, operation)
    assert keys == [3, 7, 10]
    pairs = torch.cartesian_prod(on.first, on.second)
    labels = results(pairs, p, operation)
    own = F.cross_entropy(table[tuple(pairs.unbind(-1))][:, on.classes], _place(on, labels))
    assert restricted_loss(table, keys, operation).item() == pytest.approx(own.item())
    train = split(p, operation, 0.4, 0).train_pairs
    assert excluded_loss(table, keys, train, operation).item() == pytest.approx(math.log(on.n))


def _place(on, labels: torch.Tensor) -> torch.Tensor:
    """Where a class stands on the circle."""
    return (labels[:, None] == on.classes).int().argmax(1)


@pytest.mark.parametrize("p", [11, 12])
def test_power_is_that_of_the_waves_written_out(p):
    table = noise(p)
    at = torch.arange(p, dtype=torch.float64)
    expected = [0.0]
    for k in range(1, p // 2 + 1):
        angle = 2 * math.pi * k / p * (at[:, None] + at)
        waves = [wave for wave in (angle.cos(), angle.sin()) if wave.norm() > 1e-6]
        units = [wave / wave.norm() for wave in waves]
        expected.append(
            sum((unit[..., None] * table).sum((0, 1)).square().sum() for unit in units).item()
        )
    assert sum_power(table).tolist() == pytest.approx(expected)


def test_losses_are_those_of_logits_projected_wave_by_wave():
    p, keys = 11, [2, 5]
    table = noise(p) + ideal("add", p, {2: 3.0}) + torch.arange(p)
    at = torch.arange(p, dtype=torch.float64)
    projected = torch.zeros_like(table)
    for k in keys:
        angle = 2 * math.pi * k / p * (at[:, None] + at)
        for wave in (angle.cos(), angle.sin()):
            unit = (wave / wave.norm())[..., None]
            projected += unit * (unit * table).sum((0, 1))
    bias = table.mean((0, 1))
    kept = loss_of(projected + bias, "add", all_pairs(p))
    assert restricted_loss(table, keys).item() == pytest.approx(kept)
    train = split(p, "add", 0.4, 1).train_pairs
    left = loss_of(table - projected, "add", train)
    assert excluded_loss(table, keys, train).item() == pytest.approx(left)
    assert left != pytest.approx(loss_of(table - projected, "add", all_pairs(p)), rel=1e-3)


def test_the_bias_correction_keeps_what_does_not_depend_on_the_pair():
    table, bias = ideal("add", 11, {2: 3.0}), torch.linspace(0, 4, 11).double()
    own = loss_of(table + bias, "add", all_pairs(11))
    assert restricted_loss(table + bias, [2]).item() == pytest.approx(own)


def test_every_operation_relabelled_gives_the_numbers_of_addition():
    # the same logits by place on the circle: 22 places for multiply and divide modulo 23
    for operation, p, modulus in (("subtract", 23, 23), ("multiply", 23, 22), ("divide", 23, 22)):
        on = circle(operation, p)
        plain = noise(modulus) + ideal("add", modulus, {4: 2.0, 9: 3.0})
        table = torch.zeros(p, p, p, dtype=torch.float64)
        table[on.first[:, None, None], on.second[None, :, None], on.classes] = plain
        places = all_pairs(modulus)[::3]
        train = torch.stack([on.first[places[:, 0]], on.second[places[:, 1]]], -1)
        keys = key_frequencies(plain)
        assert key_frequencies(table, operation) == keys
        for found, expected in (
            (sum_power(table, operation), sum_power(plain)),
            (restricted_loss(table, keys, operation), restricted_loss(plain, keys)),
            (excluded_loss(table, keys, train, operation), excluded_loss(plain, keys, places)),
        ):
            torch.testing.assert_close(found, expected)


def test_pairs_with_a_zero_do_not_count_where_logarithms_do():
    table = ideal("multiply", 23, {3: 5.0})
    spoilt = table.clone()
    spoilt[0], spoilt[:, 0], spoilt[..., 0] = 100, -50, 7
    train = split(23, "multiply", 0.5, 0).train_pairs
    assert (train == 0).any()
    assert key_frequencies(spoilt, "multiply") == [3]
    for one in (table, spoilt):
        assert excluded_loss(one, [3], train, "multiply").item() == pytest.approx(math.log(22))
    torch.testing.assert_close(
        restricted_loss(spoilt, [3], "multiply"), restricted_loss(table, [3], "multiply")
    )


def test_key_frequencies_are_the_smallest_set_with_the_share():
    # power goes with the square: 64, 25, 9, 2 of 100
    scales = {1: 8.0, 2: 5.0, 3: 3.0, 4: math.sqrt(2)}
    table = ideal("add", 23, scales)
    assert key_frequencies(table, share=0.6) == [1]
    assert key_frequencies(table, share=0.88) == [1, 2]
    assert key_frequencies(table) == [1, 2, 3]
    assert key_frequencies(table, share=1.0)[:4] == [1, 2, 3, 4]
    assert key_frequencies(torch.ones(5, 5, 5)) == []
    with pytest.raises(UserError, match=r"share = 0"):
        key_frequencies(table, share=0)


def test_stacked_tables_have_a_loss_each():
    tables = torch.stack([noise(11), ideal("add", 11, {2: 3.0})])
    train = all_pairs(11)[::2]
    for member in range(2):
        alone = restricted_loss(tables[member], [2]), excluded_loss(tables[member], [2], train)
        together = restricted_loss(tables, [2]), excluded_loss(tables, [2], train)
        for one, all_ in zip(alone, together, strict=True):
            torch.testing.assert_close(one, all_[member])


def test_without_a_circle_they_are_not_defined():
    with pytest.raises(UserError, match=r"operation = 's5': not defined"):
        key_frequencies(noise(5), "s5")
    with pytest.raises(UserError, match=r"p = 9: discrete logarithms are not defined"):
        restricted_loss(noise(9), [1], "multiply")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("runs") / "small", operation="divide", p=13, steps=200)


def test_measures_over_the_checkpoints_of_a_run(run):
    table = progress_measures(run)
    assert table.column_names == [
        *("step", "restricted_loss", "excluded_loss", "train_loss", "test_loss"),
        *("embedding_gini", "weight_norm", "logit_scale", "key_frequencies"),
    ]
    assert table["step"].to_pylist() == [0, 50, 100, 150, 200]
    rows = {row["step"]: row for row in table.to_pylist()}
    last = load(run, step=200, device="cpu").model(all_pairs(13)).unflatten(0, (13, 13))
    keys = key_frequencies(last, "divide")
    assert all(row["key_frequencies"] == keys for row in rows.values())
    from cutaway.runs import Run

    for row in Run.open(run).read().to_pylist():  # as the loop that trained it saw them
        if row["step"] in rows:
            for column in ("train_loss", "test_loss", "weight_norm"):
                assert rows[row["step"]][column] == pytest.approx(row[column], rel=1e-5)
    model = load(run, step=100, device="cpu").model
    then = model(all_pairs(13)).unflatten(0, (13, 13))
    assert rows[100]["restricted_loss"] == pytest.approx(
        restricted_loss(then, keys, "divide").item()
    )
    # what the network learned is in its key frequencies
    assert rows[200]["restricted_loss"] < rows[0]["restricted_loss"] - 0.5
    assert rows[200]["excluded_loss"] > rows[200]["train_loss"] + 0.5


def test_a_damaged_checkpoint_is_left_out(run, tmp_path, capsys):
    import shutil

    copy = shutil.copytree(run, tmp_path / "copy")
    with open(copy / "checkpoints" / "step-000100" / "model.safetensors", "r+b") as handle:
        handle.truncate(100)
    assert progress_measures(copy)["step"].to_pylist() == [0, 50, 150, 200]
    assert "left out" in capsys.readouterr().err
