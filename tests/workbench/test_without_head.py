"""Encoders and models without a head go through everything; what does not apply is left out and said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from activations.small_stores import BOS, EOS, with_special
from activations.tiny_models import small_tokenizer
from conftest import settings_args
from nets.test_check import headless

SMALL = {
    "d_hidden": 48, "target_l0": 4, "batch_size": 64, "max_steps": 30, "eval_every": 10,
    "checkpoint_every": 10, "kernels": "sparse", "precision": "float32", "device": "cpu",
    "dead_after": 2000, "eval_tokens": 400,
}  # fmt: skip
LEFT_OUT = ("ce_clean", "ce_spliced", "ce_zero", "ce_mean", "ce_recovered", "kl", "kl_recovered")


@pytest.fixture(scope="module", params=["bert", "gpt2"])
def model(request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder, and a causal model, saved without their vocabulary's head."""
    place = headless(request.param, tmp_path_factory.mktemp("models"), small_tokenizer())
    return with_special(place, "B $A E") if request.param == "bert" else place


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    rows = [
        {"text": f"the {n} dogs see the old king and {n + 3} of {n * n} cats"} for n in range(300)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def made(model: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory):
    """A pipeline's folder, and what the command said."""
    import contextlib
    import io

    from cutaway.cli.main import run

    out = tmp_path_factory.mktemp("pipeline") / "out"
    shown, said = io.StringIO(), io.StringIO()
    words = ["sae", "pipeline", model, "--data", texts, "--layers", "1", "--tokens", "4k"]
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(said):
        code = run([*map(str, [*words, *settings_args(SMALL), "--out", out])])
    assert code == 0, said.getvalue()
    return out, shown.getvalue(), said.getvalue()


def test_what_is_left_out_is_said_once_and_first(made) -> None:
    _, shown, said = made
    lines = [line for line in said.splitlines() if "saved without a vocabulary head" in line]
    assert lines, said
    assert said.index(lines[0]) < said.index("to write")  # before anything slow
    assert (
        "CE recovered, KL, promoted tokens and effects on the next token are left out" in lines[0]
    )
    assert "nan" not in shown.lower()


def test_every_other_figure_is_there(made) -> None:
    out, _, _ = made
    found = json.loads((out / "residual.1" / "evaluation.json").read_text())
    for name in LEFT_OUT:
        assert found[name] is None
        assert "saved without a vocabulary head" in found["left_out"][name]
    for name in ("l0", "explained_variance", "normalised_mse", "cosine", "dead_share"):
        assert isinstance(found[name], float)
        assert name not in found["left_out"]
    for baseline in found["baselines"].values():
        assert isinstance(baseline["explained_variance"], float)
        assert baseline["ce_recovered"] is None
    facts = json.loads((out / "residual.1" / "features" / "features.json").read_text())
    assert "without a vocabulary head" in facts["left_out"]["promoted"]
    page = (out / "residual.1" / "features" / "features.html").read_text()
    assert "Promoted: left out" in page


def test_no_empty_column_of_promoted_tokens(made, cutaway) -> None:
    dictionary, reason = made[0] / "residual.1", "promoted tokens are left out: "
    code, out, err = cutaway("sae", "features", dictionary, "--tokens", "1k")
    assert code == 0, err
    assert "promotes" not in out
    assert [reason in line for line in out.splitlines()].count(True) == 1
    code, out, err = cutaway("sae", "features", dictionary, "--tokens", "1k", "--json")
    assert code == 0, err
    assert all("promotes" not in row for row in json.loads(out))
    assert reason in err
    feature = json.loads(out)[0]["feature"]
    code, out, err = cutaway("sae", "features", dictionary, "--tokens", "1k", "--feature", feature)
    assert code == 0, err
    assert reason in out
    page = (dictionary / "features" / "features.html").read_text()
    assert "Promotes</th>" not in page
    assert "**Promotes**" not in page
    assert "<strong>Promotes</strong>" not in page
    assert "Fires on</th>" in page


def test_features_fire_and_effects_are_refused(made, cutaway) -> None:
    dictionary = made[0] / "residual.1"
    code, out, err = cutaway("sae", "effect", dictionary, "--prompt", "the old king", "--json")
    assert code == 0, err
    assert all(row["position"] >= 1 for row in json.loads(out))
    assert "effects on the next token are left out" in err
    code, out, err = cutaway("sae", "effect", dictionary, "--prompt", "the old king")
    assert code == 0, err
    assert "effects on the next token are left out" in out.splitlines()[-1]
    code, out, err = cutaway("sae", "effect", dictionary, "--prompt", "the", "--feature", "1")
    assert (code, out) == (2, "")
    assert "saved without a vocabulary head" in err
    assert len(err.splitlines()) == 1


def test_probes_leave_the_model_s_own_probability_out(model: Path, texts: Path, cutaway) -> None:
    ask = ["--data", texts, "--target-token", "s", "--context-length", 6, "--out", "data"]
    code, _, err = cutaway("probe", "data", model, *ask)
    assert code == 0, err
    code, _, err = cutaway(
        *("probe", "train", model, "--data", "data", "--layers", "1"),
        *("--controls", "current_token,model", "--out", "probes", "--json"),
    )
    assert code == 0, err
    assert "model is left out" in err
    assert "without a vocabulary head" in err
    code, _, err = cutaway(
        "probe", "train", model, "--data", "data", "--layers", "1", "--out", "default", "--json"
    )
    assert code == 0, err
    told = [line for line in err.splitlines() if line.startswith("controls: ")]
    assert len(told) == 1, err
    assert "model is left out" in told[0]
    assert "without a vocabulary head" in told[0]
    code, _, err = cutaway("probe", "view", "probes", "--text", "the old king and 3 of 9 cats")
    assert code == 0, err
    encoder = "BertModel" in (model / "config.json").read_text()
    sentence = "is an encoder: its states have seen the tokens that follow"
    page = Path("view.html").read_text("utf-8")
    for told in (err, page):
        assert (sentence in told) == encoder
        assert ("no prediction" in told) == encoder


def test_an_encoder_s_states_are_between_its_special_tokens(made, model: Path) -> None:
    manifest = json.loads((made[0] / "activations" / "manifest.json").read_text())
    expected = ([BOS], [EOS]) if "BertModel" in (model / "config.json").read_text() else ([], [])
    reading = manifest["data"]["reading"]
    assert (reading["prefix"], reading["suffix"]) == expected


def test_absorption_says_where_its_prompts_are_read_otherwise(made, model: Path, cutaway) -> None:
    """[SEP] stands after the contexts of the training, and nothing after a prompt."""
    words = ("sae", "eval", made[0] / "residual.1", "--suite", "absorption", "--out", "suite")
    _, _, err = cutaway(*words)
    encoder = "BertModel" in (model / "config.json").read_text()
    assert ("absorption: its prompts begin with" in err) == encoder
    assert ("end without special tokens" in err) == encoder
