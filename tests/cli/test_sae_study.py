"""`cutaway sae study`: arms over seeds, compared pairwise; resumable; one failure stops no other."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from cutaway.cli.main import run
from cutaway.orthogonality import experiment as orthogonality
from cutaway.runs.folder import Run

SETTINGS = {
    "parents": 4,
    "children": 2,
    "parent_rate": 0.3,
    "d_model": 8,
    "d_hidden": 16,
    "architecture": "topk",
    "batch_size": 64,
    "max_steps": 30,
    "topk_fraction": 0.1,
    "log_every": 5,
    "eval_every": 10,
    "checkpoint_every": 30,
    "eval_tokens": 300,
    "device": "cpu",
    "precision": "float32",
    "kernels": "dense",
    "tokens": 5000,
}


def study(out: Path, *more: str, settings: dict | None = None, quiet: bool = True) -> int:
    words = [f"--{k.replace('_', '-')}={v}" for k, v in (SETTINGS | (settings or {})).items()]
    begin = ["--quiet"] if quiet else []
    usual = {"--arms": "tau-0,random", "--seeds": "3,4", "--l0": "2", "--out": str(out)}
    options = [word for pair in usual.items() if pair[0] not in more for word in pair]
    command = ["sae", "study", "orthogonality", "--synthetic", *words, *options]
    return run([*begin, *command, *more])


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("study") / "study"
    assert study(out) == 0
    return out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_every_arm_is_trained_with_every_seed_and_told_by_its_run(done) -> None:
    runs = rows(done / "results.csv")
    assert {(one["arm"], one["seed"]) for one in runs} == {
        (arm, seed) for arm in ("none", "tau-0", "random") for seed in ("3", "4")
    }
    for one in runs:
        record = Run.open(done / one["run"]).record
        assert float(one["absorption"]) == record.metrics["absorption"]
        assert float(one["explained_variance"]) == record.metrics["val_explained_variance"]
        # the seed draws the truth and the data too
        seed = record.config["seed"]
        assert record.config["truth_seed"] == record.config["data_seed"] == seed


def test_an_arm_is_compared_with_the_baseline_seed_by_seed(done) -> None:
    runs = {(one["arm"], one["seed"]): one for one in rows(done / "results.csv")}
    arms = {one["arm"]: one for one in json.loads((done / "comparison.json").read_text())["arms"]}
    differences = [
        float(runs["tau-0", seed]["explained_variance"])
        - float(runs["none", seed]["explained_variance"])
        for seed in ("3", "4")
    ]
    found = arms["tau-0"]
    assert found["explained_variance_change"] == pytest.approx(sum(differences) / 2)
    half = 12.7062 * abs(differences[0] - differences[1]) / 2  # t of one degree of freedom
    low = sum(differences) / 2 - half
    assert found["explained_variance_change_low"] == pytest.approx(low, rel=1e-4)
    inside = low <= 0 <= found["explained_variance_change_high"]
    assert found["explained_variance_within_noise"] is inside
    assert "explained_variance_change" not in arms["none"]


def test_a_run_off_its_target_stays_out_of_the_comparison(done, tmp_path, monkeypatch) -> None:
    from cutaway.orthogonality import comparison

    whole = comparison.compared(done)
    monkeypatch.setattr(comparison, "MATCHED", -1.0)
    none = comparison.compared(done)
    assert all(one["seeds"] == 2 and one["unmatched"] == 0 for one in whole.arms)
    assert all(one["seeds"] == 0 and one["unmatched"] == 2 for one in none.arms)
    assert not any("absorption" in one for one in none.arms)


def test_a_run_is_matched_with_the_baseline_of_its_seed_whose_l0_is_nearest() -> None:
    from cutaway.orthogonality.comparison import match

    given = [("none", 0, 6.0, 5.8), ("none", 0, 6.5, 6.2), ("tau-0", 0, 6.0, 6.25),
             ("random", 0, 6.0, 6.52), ("none", 1, 6.0, 5.0), ("tau-0", 1, 6.0, 5.2),
             ("random", 1, 6.0, 6.0), ("none", 2, 6.0, 5.0)]  # fmt: skip
    rows = [
        {"run": str(number), "arm": arm, "seed": seed, "target_l0": target, "l0": l0}
        for number, (arm, seed, target, l0) in enumerate(given)
    ]
    match(rows)
    assert [row["beside"] for row in rows] == [None, None, "1", None, None, "4", None, None]
    matched = [row["matched"] for row in rows]
    assert matched == [True, True, True, False, True, True, False, False]


def test_the_pictures_are_drawn(done) -> None:
    drawn = {path.stem for path in (done / "figures").glob("*.png")}
    assert {"training_comparison", "absorption_against_variance", "pair_cosines"} <= drawn


def test_a_study_that_is_done_is_not_trained_again(done, capsys) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.glob("*/run.json")}
    assert study(done) == 2
    assert "--resume" in capsys.readouterr().err
    assert study(done, "--resume") == 0
    assert {path: path.stat().st_mtime_ns for path in done.glob("*/run.json")} == before


def test_one_run_that_fails_stops_no_other(done, tmp_path, capsys) -> None:
    out = tmp_path / "study"
    name = next(done.glob("random*_s3*")).name
    (out / name).mkdir(parents=True)
    (out / name / "run.json").write_text("{")
    assert study(out, "--resume") == 1
    assert "1 of 6 runs did not come to their end" in capsys.readouterr().err
    assert len(rows(out / "results.csv")) == 5


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--arms", "tau-1"], "arms: 'tau-1': expected all, or some of none, tau-0"),
        (["--seeds", "x"], "seeds = 'x': expected numbers with commas between"),
        (["--seeds", "0"], "seeds = 0: expected 1 to 10,000"),
        (["--l0", "many"], "l0 = 'many': expected numbers"),
        (["--l0", "16"], "target_l0 = 16: must be below d_hidden = 16"),
        (["--push", "0"], "push = 0"),
        (["--tau", "2"], "tau = 2: "),
        (["--orthogonality-weight", "3"], "orthogonality_weight: the study varies it"),
        (["--tasks", "docstrings"], "--tasks: synthetic states have no texts"),
        (["--seeds", ","], "seeds = ,: expected 1 to 10,000"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_one_line_before_anything_is_trained(
    tmp_path, capsys, more, told
) -> None:
    assert study(tmp_path / "study", *more, quiet=False) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cutaway:")]
    assert len(lines) == 1
    assert told in lines[0]
    assert not (tmp_path / "study").exists()


def test_weights_push_every_pair_alike_whatever_the_arm_selects() -> None:
    planned = orthogonality.sweep(
        {**SETTINGS, "synthetic": "hierarchy", "d_hidden": 64}, width=8, seeds=(0,),
        target_l0s=(2,), push=0.5, all_pairs_push=0.25,
    )  # fmt: skip
    weights = {
        orthogonality.arm_of(one.name): one.config.orthogonality_weight for one in planned.runs
    }
    pairs = 64 * 63 // 2
    assert weights["tau-0"] == weights["random"] == 0.5 * round(0.1 * pairs)
    assert weights["fraction-tenth"] == 0.5 * round(0.01 * pairs)
    assert weights["fraction-tenfold"] == 0.5 * pairs
    assert weights["ortsae"] == 0.25 * 64
