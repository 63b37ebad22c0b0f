"""From a model to features one can read, and everything the `sae` commands do with the result."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import cutaway
from conftest import PATIENCE, command, settings_args
from cutaway.activations.shards import mapped, write_shard
from cutaway.activations.store import ActivationStore
from cutaway.base.errors import RunFailed, UserError
from cutaway.evaluations.held_out import held_out
from cutaway.runs.folder import Run
from cutaway.workbench import pipeline
from cutaway.workbench.pipeline import model_of
from stopping import stopped

Cutaway = Callable[..., tuple[int, str, str]]
SETTINGS = {
    "d_hidden": 64, "target_l0": 6, "batch_size": 64, "max_steps": 80, "eval_every": 20, "checkpoint_every": 20,
    "kernels": "sparse", "precision": "float32", "device": "cpu",
}  # fmt: skip
ASK = [*settings_args(SETTINGS), "--layers", "embed,0", "--tokens", "4k"]


@pytest.fixture(scope="module")
def whole(gpt2_run: Path, corpus: Path, tmp_path_factory) -> Path:
    """An uninterrupted pipeline's folder; tests only read it."""
    out = tmp_path_factory.mktemp("pipeline") / "whole"
    process = command("sae", "pipeline", gpt2_run, "--data", corpus, *ASK, "--out", out)
    shown, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    (out.parent / "shown.txt").write_text(shown)
    return out


@pytest.fixture(scope="module")
def saved(whole: Path, tmp_path_factory) -> Path:
    """One of its dictionaries, in a folder tests may write beside."""
    return whole / "residual.0"


@pytest.fixture
def own(saved: Path, tmp_path: Path) -> Path:
    """A copy of that dictionary's run, to write into."""
    return shutil.copytree(saved, tmp_path / "own")


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a run's last checkpoint."""
    checkpoints = Run.open(folder).checkpoints
    last = checkpoints.load(checkpoints.last())
    return {f"{g}.{n}": value for g, named in last.tensors.items() for n, value in named.items()}


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "checkpoints").rglob("*.safetensors"))
    }


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "evaluation.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def same_figures(one: Path, other: Path) -> bool:
    return (one / "evaluation.csv").read_bytes() == (other / "evaluation.csv").read_bytes()


# -- the whole of it -------------------------------------------------------------------------------


def test_the_pipeline_leaves_what_it_promises(whole: Path) -> None:
    for name in (
        *("activations/manifest.json", "activations/shards/00000.safetensors", "evaluation.csv"),
        *("figures/density.png", "figures/layers.png", "figures/explained_variance_by_l0.png"),
    ):
        assert (whole / name).stat().st_size > 100, name
    for site in ("embed", "residual.0"):
        folder = whole / site
        assert Run.open(folder).record.steps_done == 80
        for name in ("evaluation.json", "features/features.json", "features/features.parquet"):
            assert (folder / name).stat().st_size > 100
        page = (folder / "features" / "features.html").read_text()
        assert site in page
        assert "http://" not in page.replace("http://www.w3.org", "")
    assert pipeline.target_of([whole / "embed", whole / "residual.0"]) == 6
    shown = (whole.parent / "shown.txt").read_text()
    assert "residual.0" in shown
    assert "5.4 to 6.6" in shown
    assert "features.html" in shown


def test_the_table_has_baselines_beside_every_dictionary(whole: Path) -> None:
    rows = rows_of(whole)
    assert [(row["site"], row["coder"]) for row in rows] == [
        (site, coder)
        for site in ("embed", "residual.0")
        for coder in ("jumprelu", "pca", "random", "random scaled")
    ]
    for row in rows:
        assert 0 < float(row["L0"]) < 16
        assert -0.5 < float(row["EV"]) <= 1
    own, _, random, _ = rows[4:]
    assert float(own["EV"]) > float(random["EV"])


def test_extracting_and_training_apart_gives_the_same(
    cutaway: Cutaway, gpt2_run: Path, corpus: Path, whole: Path, tmp_path: Path
) -> None:
    ask = ["sae", "pipeline", gpt2_run, "--data", corpus, *ASK, "--out", "apart"]
    code, out, err = cutaway(*ask, "--extract-only", "--json")
    assert code == 0, err
    assert [row["site"] for row in json.loads(out)] == ["embed", "residual.0"]
    assert sorted(path.name for path in (tmp_path / "apart").iterdir()) == ["activations"]
    code, _, err = cutaway(*ask, "--train-only")
    assert code == 0, err
    assert same_figures(tmp_path / "apart", whole)
    one, other = tensors(tmp_path / "apart" / "residual.0"), tensors(whole / "residual.0")
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_layers_may_be_trained_one_at_a_time(cutaway: Cutaway, gpt2_run, whole, tmp_path) -> None:
    ask = ["sae", "pipeline", gpt2_run, *settings_args(SETTINGS), "--train-only", "--out", "one"]
    ask += ["--activations", whole / "activations", "--json"]
    code, out, err = cutaway(*ask, "--layers", "0")
    assert code == 0, err
    assert [one["site"] for one in json.loads(out)] == ["residual.0"]
    assert not (tmp_path / "one" / "embed").exists()
    assert not (tmp_path / "one" / "activations").exists()
    code, out, err = cutaway(*ask, "--layers", "embed")
    assert code == 0, err
    assert [one["site"] for one in json.loads(out)] == ["embed"]
    assert same_figures(tmp_path / "one", whole)  # the table is of both


def test_training_on_states_of_another_model_is_refused(
    cutaway: Cutaway, backpack_run, whole, tmp_path
) -> None:
    code, out, err = cutaway(
        *("sae", "pipeline", backpack_run, "--activations", whole / "activations"),
        *("--train-only", "--out", "one"),
    )
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "has other weights or another tokenizer" in err
    assert not (tmp_path / "one").exists()


# -- stopping and going on -------------------------------------------------------------------------


def test_killed_in_the_middle_it_goes_on_to_the_same_bits(
    gpt2_run: Path, corpus: Path, whole: Path, tmp_path: Path
) -> None:
    ask = ["sae", "pipeline", gpt2_run, "--data", corpus, *ASK]
    out = tmp_path / "cut"
    place = 80 + 50  # within the training of the second of two dictionaries
    assert stopped(signal.SIGKILL, place, *ask, "--out", out) == -signal.SIGKILL
    assert Run.open(out / "embed").status == "done"
    second = Run.open(out / "residual.0")
    assert (second.status, second.checkpoints.last()) == ("interrupted", 40)
    finished = digests(out / "embed")
    process = command(*ask, "--out", out, "--resume")
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert digests(out / "embed") == finished
    for site in ("embed", "residual.0"):
        cut, uncut = tensors(out / site), tensors(whole / site)
        assert [name for name, value in uncut.items() if not torch.equal(value, cut[name])] == []
        left, right = (Run.open(root / site).read() for root in (out, whole))
        assert left["step"].to_pylist() == right["step"].to_pylist()
        assert left["train_loss"].to_pylist() == right["train_loss"].to_pylist()
    assert same_figures(out, whole)


def test_resuming_takes_what_is_not_named_from_what_was_begun(
    cutaway: Cutaway, gpt2_run: Path, corpus: Path, whole: Path
) -> None:
    ask = ["sae", "pipeline", gpt2_run, "--out", "begun", "--extract-only", "--json"]
    code, begun, err = cutaway(*ask, "--data", corpus, "--layers", "0", "--tokens", "2k")
    assert code == 0, err
    code, out, err = cutaway(*ask, "--resume")
    assert (code, out) == (0, begun), err
    code, _, err = cutaway(*ask, "--resume", "--tokens", "3k")
    assert (code, "was begun with 2000; leave it out" in err) == (2, True), err


def test_other_settings_are_refused_on_resume_before_anything_is_said(
    cutaway: Cutaway, gpt2_run: Path, whole: Path
) -> None:
    code, out, err = cutaway(
        "sae", "pipeline", gpt2_run, "--out", whole, "--resume", "--target-l0", 16
    )
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert "target_l0 = 16" in err


def test_targets_are_held_against_the_checkpoint_that_is_loaded(
    cutaway: Cutaway, whole: Path, tmp_path: Path
) -> None:
    ask = ["sae", "train", whole / "activations", "--layers", "0", "--out", "kept", "--json"]
    code, _, err = cutaway(*ask, *settings_args(SETTINGS), "--keep-checkpoints", 9)
    assert code == 0, err
    run = Run.open(tmp_path / "kept" / "residual.0")
    rows = {row["step"]: row for row in run.read("history").to_pylist()}
    for best in (40, 80):
        run.checkpoints.mark_best(best, 0.0)
        code, out, err = cutaway(*ask, "--resume")
        assert code == 0, err
        seen = {row["target"]: row for row in json.loads(out)}
        assert seen["features per token"]["seen"] == rows[best]["val_l0"]
        assert seen["dead features"]["seen"] == rows[best]["val_dead_share"]
        assert {(row["step"], row["last_step"]) for row in seen.values()} == {(best, 80)}
    assert rows[40]["val_l0"] != rows[80]["val_l0"]


def test_layers_added_on_resume_get_the_settings_of_those_there(
    cutaway: Cutaway, whole: Path, tmp_path: Path
) -> None:
    ask = ["sae", "train", whole / "activations", "--out", "grown"]
    code, _, err = cutaway(*ask, "--layers", "0", *settings_args(SETTINGS))
    assert code == 0, err
    before = digests(tmp_path / "grown" / "residual.0")
    code, _, err = cutaway(*ask, "--resume")
    assert code == 0, err
    assert digests(tmp_path / "grown" / "residual.0") == before
    added = Run.open(tmp_path / "grown" / "embed").record
    assert added.config["d_hidden"] == 64
    assert added.resolved["dictionary"]["site"] == "embed"
    one, other = tensors(tmp_path / "grown" / "embed"), tensors(whole / "embed")
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    code, _, err = cutaway(*ask, "--resume", "--d-hidden", 32)
    assert (code, "d_hidden = 32" in err) == (2, True)


def test_a_taken_folder_is_seen_before_anything_is_trained(
    cutaway: Cutaway, whole: Path, tmp_path: Path
) -> None:
    (tmp_path / "new" / "residual.0").mkdir(parents=True)
    (tmp_path / "new" / "residual.0" / "notes.txt").write_text("mine")
    code, _, err = cutaway("sae", "train", whole / "activations", "--out", "new")
    assert (code, "is not empty (holds notes.txt)" in err) == (2, True)
    assert not (tmp_path / "new" / "embed").exists()


@pytest.fixture
def half_dead(whole: Path, tmp_path: Path) -> Path:
    """A store whose input embedding is zero everywhere."""
    place = shutil.copytree(whole / "activations", tmp_path / "half")
    manifest = json.loads((place / "manifest.json").read_text())
    for shard in manifest["shards"]:
        path = place / "shards" / shard["file"]
        content = {name: value.clone() for name, value in mapped(path).items()}
        content["embed"].zero_()
        shard |= write_shard(path, content)
    (place / "manifest.json").write_text(json.dumps(manifest))
    return place


def test_a_layer_that_fails_does_not_stop_the_others(
    cutaway: Cutaway, half_dead: Path, tmp_path: Path
) -> None:
    code, out, err = cutaway(
        "sae", "train", half_dead, "--out", "new", *settings_args(SETTINGS), "--json"
    )
    assert code == 1
    assert {row["dictionary"] for row in json.loads(out)} == {"residual.0"}
    assert "embed: failed: embed: every state is zero" in err
    assert "1 of 2 dictionaries did not come to their end (embed)" in err.splitlines()[-1]
    assert Run.open(tmp_path / "new" / "residual.0").status == "done"
    assert not (tmp_path / "new" / "embed").exists()


def test_where_every_layer_fails_that_is_the_end(half_dead: Path, tmp_path: Path) -> None:
    store = ActivationStore(half_dead)
    with pytest.raises(UserError, match="every state is zero"):
        pipeline.train_layers(store, tmp_path / "none", "embed", SETTINGS)
    deadly = {**SETTINGS, "architecture": "relu", "lambda_sparse": 1e5, "target_l0": None}
    deadly |= {"dead_after": 10**9, "learning_rate": 0.02, "eval_every": 5, "max_steps": 400}
    with pytest.raises(RunFailed, match="no feature is active"):
        pipeline.train_layers(store, tmp_path / "none", "0", deadly)


# -- what is held out ------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_no_held_out_context_was_trained_on(whole: Path, share: float) -> None:
    store = ActivationStore(whole / "activations")
    border = store.split(share)[1].start
    tokens = store.tokens()
    judged = torch.cat([ids for ids, *_ in held_out(store, model_of(store), share)])
    length = store.context_length
    first = store.rows // length - len(judged)
    assert torch.equal(judged.flatten().int(), tokens[first * length :])
    assert border <= first * length < border + length


# -- once more ----------------------------------------------------------------------------


def test_eval_repeats_the_pipelines_figures(cutaway: Cutaway, whole, own, tmp_path) -> None:
    code, out, err = cutaway("sae", "eval", own, "--json", "--out", "judged")
    assert code == 0, err
    (found,) = json.loads(out)
    before = json.loads((whole / "residual.0" / "evaluation.json").read_text())
    assert found["explained_variance"] == pytest.approx(before["explained_variance"])
    assert found["baselines"].keys() == {"pca", "random", "random_scaled"}
    assert found["threshold"]["moved"] > 0
    assert (tmp_path / "judged" / "evaluation.csv").is_file()


# -- a notebook ------------------------------------------------------------------------------------


def test_three_lines_in_a_notebook(gpt2_run: Path, saved: Path) -> None:
    model = cutaway.open_model(gpt2_run)
    states = cutaway.capture(model, model.tokens("The old king sees the river."), "residual.0")
    features = cutaway.Dictionary.load(saved).encode(*states.values())
    assert features.shape == (1, model.tokens("The old king sees the river.").shape[1], 64)
    assert 0 < float((features > 0).sum(-1).float().mean()) < 32


def test_the_pipeline_from_python(gpt2_run: Path, corpus: Path, whole: Path, tmp_path) -> None:
    (found,) = pipeline.pipeline(
        str(gpt2_run), tmp_path / "p", data=str(corpus), layers="0", tokens=4_000, settings=SETTINGS
    )
    rows = rows_of(whole)
    assert found.explained_variance == pytest.approx(float(rows[4]["EV"]), abs=1e-4)
