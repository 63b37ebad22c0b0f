"""Goldens that were cut go on to where the uncut ones ended, those that ended go on further.

Bits differ between processors and so, a little more with every step, do figures: `NEAR` is far
above that and far below what a run from another start, or with a step too many, would show.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cutaway.runs.folder import Run
from golden.folders import having
from golden.readings import ask

NEAR = 0.03  # relative, of a loss
Apart = Callable[..., Path]


def versions_with(*names: str) -> pytest.MarkDecorator:
    """The test once for each version that holds these."""
    return pytest.mark.parametrize("version", having(*names), ids=lambda one: one.name)


def each(cases: list[tuple]) -> list:
    """The cases, whose first is a folder, once for each version that holds it."""
    return [
        pytest.param(version, *case, id=f"{version.name}: {case[0]}")
        for case in cases
        for version in having(case[0])
    ]


def cutaway(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command in `folder`; it must end well."""
    from cutaway.cli.main import run

    monkeypatch.chdir(folder)
    assert run(command.split()) == 0, command


def moved(version: Path, folder: Path, *names: str) -> None:
    """Say in records where the things now are that they name, which no option of theirs can.

    A run of probes and an extraction hold on to the model they began with: where it has moved they
    are gone on with once their record names its new place.
    """
    for name in names:
        for file in (folder / name).glob("[!.]*.json"):  # not .owner.json, whose age says who lives
            said = file.read_text()
            file.write_text(said.replace(f"/tmp/cutaway-golden/{version.name}", str(folder)))


def same_steps(one: Path, other: Path) -> None:
    """Neither gap nor duplicate: the rows of a run that was cut are those of the one that was not."""
    steps = [Run.open(place).read()["step"].to_pylist() for place in (one, other)]
    assert steps[0] == steps[1]


def last(run: Path, name: str) -> float:
    """The last value of a column that is not null."""
    return [one for one in Run.open(run).read()[name].to_pylist() if one is not None][-1]


CUT = [  # cut, the same uncut, what else is needed, how it goes on, the loss to compare
    ("language/killed", "language/gpt2", ["texts"], "--data texts/corpus", "val_loss"),
    ("language/interrupted", "language/backpack", ["texts"], "--data texts/corpus", "val_loss"),
    ("grokking/killed", "grokking/routed", [], "", "train_loss"),
    (
        *("dictionaries/killed", "dictionaries/measured", ["stores/float32"]),
        *("--activations stores/float32", "normalised_mse"),
    ),
    ("probes/killed", "probes/minibatch", ["language/gpt2", "probes/the"], "", "train_loss"),
]


@pytest.mark.parametrize(("version", "cut", "whole", "needs", "options", "loss"), each(CUT))
def test_a_run_that_was_cut_ends_where_the_whole_one_did(
    version: Path,
    cut: str,
    whole: str,
    needs: list[str],
    options: str,
    loss: str,
    apart: Apart,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = apart(version, cut, *needs)
    if cut == "probes/killed":
        moved(version, folder, cut)
    before = Run.open(folder / cut)
    assert before.status == "interrupted"
    if cut.endswith("/killed"):  # by kill -9: rows in parts, the owner still named
        assert (folder / cut / "history.live").is_dir()
        assert (folder / cut / ".owner.json").is_file()
    assert 0 < before.record.steps_done < before.record.steps_planned
    assert last(folder / cut, "train_loss") > 0  # its rows are read as they were left
    cutaway(f"train {cut} --resume {options}", folder, monkeypatch)
    after, uncut = Run.open(folder / cut), Run.open(version / whole)
    assert after.status == "done"
    assert after.record.steps_done == uncut.record.steps_done
    assert after.record.metrics.keys() >= uncut.record.metrics.keys()
    same_steps(folder / cut, version / whole)
    assert last(folder / cut, loss) == pytest.approx(last(version / whole, loss), rel=NEAR)
    assert set(after.tables()) == set(uncut.tables())
    assert ask(f"runs verify {cut}", folder) == []


ENDED = [
    ("language/extended", ["texts"], "--data texts/corpus"),
    ("grokking/extended", [], ""),
    ("dictionaries/extended", ["stores/float32"], "--activations stores/float32"),
    ("probes/extended", ["language/gpt2", "probes/the"], ""),
]


@pytest.mark.parametrize(("version", "name", "needs", "options"), each(ENDED))
def test_a_run_that_was_extended_is_extended_again(
    version: Path,
    name: str,
    needs: list[str],
    options: str,
    apart: Apart,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = apart(version, name, *needs)
    if name == "probes/extended":
        moved(version, folder, name)
    before = Run.open(folder / name)
    steps, rows = before.record.steps_done, before.read()
    cutaway(f"train {name} --extra-steps 6 {options}", folder, monkeypatch)
    after = Run.open(folder / name)
    assert (after.status, after.record.steps_done) == ("done", steps + 6)
    assert after.record.steps_planned == steps + 6
    kept = after.read()
    for column in ("step", "train_loss"):  # the rows before the end stay as they are
        known = rows.filter(rows["step"].to_numpy() < steps)[column].to_pylist()
        assert kept[column].to_pylist()[: len(known)] == known


FAILED = [("language/failed",), ("grokking/failed",), ("dictionaries/failed",)]


@pytest.mark.parametrize(("version", "name"), each(FAILED))
def test_a_failed_run_says_why_and_keeps_its_rows(version: Path, name: str) -> None:
    run = Run.open(version / name)
    assert run.status == "failed"
    assert "finite" in run.record.reason
    assert len(run.read()) > 0
    assert last(version / name, "train_loss") > 0


@versions_with("stores/killed")
def test_an_extraction_that_was_killed_ends_with_the_states_of_the_whole_one(
    version: Path, apart: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cutaway.activations.store import ActivationStore

    folder = apart(version, "stores/killed", "texts", "language/gpt2")
    moved(version, folder, "stores/killed")
    begun = ActivationStore(folder / "stores/killed")
    assert not begun.complete
    cutaway("extract --resume --out stores/killed", folder, monkeypatch)
    store, whole = (
        ActivationStore(folder / "stores/killed"), ActivationStore(version / "stores/float32")
    )  # fmt: skip
    assert store.complete
    assert store.rows == whole.rows > begun.rows
    assert torch.equal(store.tokens(), whole.tokens())
    for site in whole.sites:
        torch.testing.assert_close(store.read(site), whole.read(site), rtol=1e-3, atol=1e-3)


@versions_with("grokking/sweep-killed")
def test_a_sweep_that_was_killed_is_finished_and_done_ones_are_left_alone(
    version: Path, apart: Apart
) -> None:
    folder = apart(version, "grokking/sweep-killed")
    sweep = folder / "grokking/sweep-killed"
    done = {one.name: (one / "history.parquet").read_bytes() for one in sweep.glob("*_s*")
            if Run.open(one).status == "done"}  # fmt: skip
    assert done
    rows = ask("sweep grokking/sweep-killed --resume --no-ensemble", folder)
    assert [row["status"] for row in rows] == ["done"] * 4
    assert {Run.open(sweep / row["run"]).record.steps_done for row in rows} == {300}
    for name, content in done.items():
        assert (sweep / name / "history.parquet").read_bytes() == content


@versions_with("imports/jsonl")
@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet"])
def test_a_history_of_others_is_imported_as_it_was(
    version: Path, kind: str, apart: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = apart(version, "texts", f"imports/{kind}")
    cutaway(f"runs import texts/history.{kind} --out again", folder, monkeypatch)
    again, before = Run.open(folder / "again"), Run.open(folder / "imports" / kind)
    assert again.read().equals(before.read())
    for name, value in before.record.config.items():
        assert again.record.config[name] == value
    found = ask("runs phases again", folder)
    phases = {name: found[0][name] for name in ("memorised", "grokked", "delay")}
    kept = json.loads((version / "expected/imports.json").read_text())
    saved = next(
        one["answer"] for one in kept if one["command"] == f"runs phases texts/history.{kind}"
    )
    assert phases == {name: saved[0][name] for name in phases}


@versions_with("grokking/transformer")
def test_the_config_of_an_old_run_repeats_it(
    version: Path, apart: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = apart(version, "grokking/transformer")
    cutaway("train grokking/transformer/config.yaml --out again", folder, monkeypatch)
    same_steps(folder / "again", folder / "grokking/transformer")
    for name in ("train_loss", "test_loss", "jacobian_norm"):
        old = last(folder / "grokking/transformer", name)
        assert last(folder / "again", name) == pytest.approx(old, rel=NEAR)
