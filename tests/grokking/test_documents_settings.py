"""Settings as the Least Action Learning document writes them, and as other people name them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cutaway.base.errors import UserError
from cutaway.cli.main import run
from cutaway.grokking.analysis import group_by
from cutaway.grokking.config import GrokkingConfig
from cutaway.runs.folder import Run
from cutaway.runs.foreign import open_log
from cutaway.studies.presets import find_preset
from cutaway.studies.settings import resolve

DOCUMENT = """\
# Data
p: 17                    # Prime modulus
operation: "add"         # "add" or "multiply"
train_frac: 0.5          # Fraction for training

# Model
model_type: "transformer"  # "baseline", "routed", "transformer"
hidden_dim: 128          # d_model for transformer
n_layers: 2              # Number of layers/blocks
n_heads: 4               # Attention heads (transformer) or routing heads
tie_embeddings: false    # Tie output projection to input embedding (transformer)

# Training
epochs: 100000
lr: 0.001
weight_decay: 1.5        # Critical for grokking (1.0-2.0 typical)
optimizer: "adamw"
beta1: 0.9               # AdamW first moment decay
beta2: 0.98              # AdamW second moment (0.98 more stable than 0.999)
eps: 1.0e-8              # AdamW epsilon (use 1.0e-8 not 1e-8 in YAML)
grad_clip: 1.0           # Gradient clipping (null to disable)
warmup_epochs: 500       # Linear LR warmup from 0 to lr

# Regularization (routed networks only)
routing_regularizer: "entropy"  # null, "entropy", "sparsity", "gini"
lambda_routing: 0.01
lambda_spectral: 0.0

# Metrics (new)
compute_weight_curvature: true   # Enable gradient_norm, weight_hessian, fisher
weight_curvature_interval: 100   # Compute every N steps (expensive)
compute_optimizer_metrics: true  # Enable Adam state analysis
"""
SHORT = ["--epochs", "2", "--hidden-dim", "8", "--n-layers", "1"]


@pytest.fixture
def document(tmp_path: Path) -> Path:
    file = tmp_path / "validate.yaml"
    file.write_text(DOCUMENT)
    return file


def test_the_documents_settings_load_and_train_with_one_notice(document, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert run(["train", str(document), *SHORT, "--out", str(out)]) == 0
    said = (
        "routing_regularizer = 'entropy' and lambda_routing = 0.01: ignored, of a routed network "
        "only; model_type is transformer"
    )
    assert capsys.readouterr().err.count("ignored") == 1
    record = Run.open(out).record
    assert said in record.notices
    assert (record.study, record.status) == ("grokking", "done")
    assert "routing_penalty" not in Run.open(out).read().column_names


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ({}, 0),
        ({"model_type": "routed", "routing_regularizer": "gini", "lambda_routing": 0.5}, 0),
        ({"model_type": "baseline", "routing_regularizer": "gini"}, 1),
        ({"model_type": "baseline", "lambda_routing": 0.5}, 1),
        ({"model_type": "baseline", "lambda_routing": 0}, 0),
    ],
)
def test_what_a_network_has_no_use_for_is_said_once(settings, lines) -> None:
    assert len(GrokkingConfig(**settings).ignored()) == lines


def test_config_names_the_file_wherever_it_stands(document, tmp_path, capsys) -> None:
    for number, order in enumerate(
        (["--config", str(document), *SHORT], [*SHORT, f"--config={document}"])
    ):
        out = tmp_path / str(number)
        assert run(["--quiet", "train", *order, "--out", str(out)]) == 0
        assert Run.open(out).record.config["epochs"] == 2
    capsys.readouterr()
    assert run(["train", "validate", "--config", str(document)]) == 2
    assert "name one file" in capsys.readouterr().err
    sweep = tmp_path / "s.yaml"
    sweep.write_text("sweep: {lr: [0.1, 0.2]}\n" + DOCUMENT.replace("lr: 0.001", ""))
    assert run(["sweep", "--config", str(sweep), "--dry-run", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2


def test_presets_may_be_written_with_underscores() -> None:
    assert find_preset("validate_transformer") == find_preset("validate-transformer")


@pytest.mark.parametrize("text", ["1e3", "1.0e3", "1E3"])
def test_a_whole_number_may_have_an_exponent_on_the_command_line_as_in_yaml(text, tmp_path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"p: 11\nepochs: {text}\n")
    preset = find_preset(str(file))
    assert resolve(GrokkingConfig, preset.values).epochs == 1000
    assert resolve(GrokkingConfig, {}, {"epochs": text}).epochs == 1000
    with pytest.raises(UserError, match=r"epochs = 1\.5e0: "):
        resolve(GrokkingConfig, {}, {"epochs": "1.5e0"})


def test_extra_epochs_may_have_an_exponent(document, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert run(["--quiet", "train", str(document), *SHORT, "--out", str(out)]) == 0
    assert run(["--quiet", "train", str(out), "--extra-epochs", "1e0"]) == 0
    assert Run.open(out).record.steps_done == 3
    assert run(["train", str(out), "--extra-epochs", "half"]) == 2


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("learning_rate", "lr"),
        ("max_iters", "epochs"),
        ("d_model", "hidden_dim"),
        ("op", "operation"),
        ("num_heads", "n_heads"),
        ("hidden_dimm", "hidden_dim"),
    ],
)
def test_a_field_by_another_name_is_answered_with_ours(given, meant) -> None:
    with pytest.raises(UserError, match=f"no field '{given}'; did you mean '{meant}'"):
        resolve(GrokkingConfig, {given: 1})


def test_a_file_is_taken_for_the_study_that_its_values_fit(tmp_path, capsys) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("p: 17\nmodel: baseline\n")
    assert find_preset(str(file)).study == "grokking"
    assert run(["train", str(file), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "no field 'model'; did you mean 'model_type'" in said
    assert "taken for settings of grokking; a line `study: NAME` says which" in said
    file.write_text("model: gpt2\nseed: 1\n")
    assert find_preset(str(file)).study == "language"


def test_histories_of_others_are_grouped_by_our_names_or_theirs(tmp_path) -> None:
    for op in ("add", "mul"):
        meta = json.dumps({"_meta": {"op": op, "d_model": 64}})
        row = json.dumps({"step": 0, "train_acc": 1.0, "test_acc": 0.5})
        (tmp_path / f"{op}.jsonl").write_text(f"{meta}\n{row}\n")
    logs = [open_log(tmp_path / f"{op}.jsonl") for op in ("add", "mul")]
    for name in ("operation", "op"):
        assert group_by(logs, name, "test_acc")[name].to_pylist() == ["add", "mul"]
    assert group_by(logs, "hidden_dim", "test_acc")["count"].to_pylist() == [2]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["out/nothere", "--resume"], "out/nothere: no such run"),
        (["mine.yaml", "--resume"], "say which run to go on with: `cutaway train FOLDER --resume`"),
        (["mine.yaml", "--extra-epochs", "5"], "or mine.yaml with --out FOLDER"),
        (["--epochs", "3"], "name a preset, a YAML file or a folder first"),
    ],
)
def test_going_on_with_what_is_no_run_says_what_to_do(cutaway, arguments, told) -> None:
    Path("mine.yaml").write_text(DOCUMENT)
    code, out, err = cutaway("train", *arguments)
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1


def test_the_help_of_settings_goes_on_below_itself(cutaway) -> None:
    _, out, _ = cutaway("train", "--help")
    listed = out[out.index("Settings, given as") :]
    lines = [line for line in listed.splitlines() if line]
    assert all(line.startswith((" ", "Settings", "language:", "grokking:", "every", "dict", "Every"))
               or line.endswith(":") for line in lines)  # fmt: skip
    assert max(map(len, lines)) < 100


def test_export_says_where_the_weights_of_a_grokking_run_are(grokking_run, cutaway) -> None:
    code, out, err = cutaway("export", grokking_run)
    assert (code, out) == (2, "")
    weights = grokking_run / "checkpoints" / "step-000200" / "model.safetensors"
    assert weights.is_file()
    assert str(weights) in err


def test_a_list_of_runs_shows_the_test_accuracy(grokking_run, cutaway) -> None:
    _, out, _ = cutaway("runs", "ls", grokking_run.parent)
    assert "test_acc 0" in out


def test_a_query_of_no_table_says_which_there_are(grokking_run, cutaway) -> None:
    code, _, err = cutaway(
        "runs", "sql", "SELECT * FROM experiments", "--runs", grokking_run.parent
    )
    assert code == 2
    assert "tables: runs, history, routing" in err
