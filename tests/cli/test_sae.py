"""The `sae` commands on a trained dictionary: judge, read, hand on, use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cutaway.activations.capture import capture
from cutaway.base.errors import UserError
from cutaway.dictionaries.model.dictionary import Dictionary
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model
from cutaway.runs.folder import Run
from cutaway.text.tokenizers import Tokenizer

Cutaway = Callable[..., tuple[int, str, str]]


@pytest.fixture
def own(dictionary_run: Path, tmp_path: Path) -> Path:
    """A copy of the dictionary's run, to write into."""
    return shutil.copytree(dictionary_run, tmp_path / "own")


def test_eval_on_other_text(cutaway: Cutaway, own: Path, corpus: Path) -> None:
    code, out, err = cutaway(
        "sae", "eval", own, "--data", corpus / "text-03.txt", "--tokens", 500, "--json"
    )
    assert code == 0, err
    (found,) = json.loads(out)
    assert found["tokens"] <= 500
    assert found["explained_variance"] > 0.3


def test_features_are_listed_and_one_told_of(cutaway: Cutaway, own: Path, tmp_path: Path) -> None:
    code, out, err = cutaway("sae", "features", own, "--top", 4, "--json")
    assert code == 0, err
    rows = json.loads(out)
    densities = [row["density"] for row in rows]
    assert len(rows) == 4
    assert densities == sorted(densities, reverse=True)
    assert (own / "features" / "features.html").is_file()
    feature = rows[0]["feature"]
    ask = ["sae", "features", own, "--feature", feature, "--examples", 3, "--out", "read"]
    code, out, _ = cutaway(*ask)
    assert (code, out.startswith(f"feature {feature}: fires on")) == (0, True)
    assert (tmp_path / "read" / "features.html").is_file()
    code, out, _ = cutaway(*ask, "--json")
    (row,) = json.loads(out)
    assert (row["feature"], len(row["examples"])) == (feature, 3)
    assert row["density"] == densities[0]


def test_a_run_is_found_by_its_name(cutaway: Cutaway, dictionary_run: Path, tmp_path: Path) -> None:
    shutil.copytree(dictionary_run, tmp_path / "runs" / "mine")
    code, _, err = cutaway("sae", "features", "mine", "--top", 1)
    assert code == 0, err
    assert not (tmp_path / "mine").exists()
    code, _, err = cutaway("sae", "eval", "mine")
    assert code == 0, err


@pytest.mark.parametrize("form", ["saelens", "cutaway"])
def test_an_export_reads_back_the_same(cutaway: Cutaway, dictionary_run, tmp_path, form) -> None:
    code, out, err = cutaway("sae", "export", dictionary_run, "--format", form, "--out", "given")
    assert (code, out.strip()) == (0, "given"), err
    one, other = Dictionary.load(dictionary_run), Dictionary.load(tmp_path / "given")
    x = torch.randn(50, 16, generator=torch.Generator().manual_seed(0)) * 5
    assert one.encode(x).any()
    torch.testing.assert_close(one.encode(x), other.encode(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one(x), other(x), rtol=1e-5, atol=1e-5)


def test_a_file_of_a_dictionary_is_judged_in_its_folder(
    cutaway: Cutaway, dictionary_run, activations, tmp_path
) -> None:
    cutaway("sae", "export", dictionary_run, "--format", "cutaway", "--out", "given")
    code, _, err = cutaway(
        *("sae", "eval", tmp_path / "given" / "dictionary.safetensors"),
        *("--activations", activations),
    )
    assert code == 0, err
    assert (tmp_path / "given" / "evaluation.json").is_file()


def test_an_effect_is_shown_before_and_after(
    cutaway: Cutaway, dictionary_run: Path, corpus: Path
) -> None:
    prompt = "The old king sees the river"
    dictionary, model = Dictionary.load(dictionary_run), model_of(dictionary_run)
    site = dictionary.metadata["site"]
    states = states_of(model, prompt, site)
    feature = int(dictionary.encode(states[-1]).argmax())
    ask = ["sae", "effect", dictionary_run, "--feature", feature, "--prompt", prompt, "--length", 5]
    code, out, err = cutaway(*ask, "--json")
    assert code == 0, err
    (found,) = json.loads(out)
    assert found["divergence"] > 0
    assert found["without"].startswith(prompt)
    assert {row["before"] == row["after"] for row in found["tokens"]} == {False}
    code, out, _ = cutaway(*ask)
    assert (code, "KL(before ‖ after)" in out, "without:" in out) == (0, True, True)
    _, same, _ = cutaway(*ask, "--mode", "scale", "--value", 1, "--json")
    (unchanged,) = json.loads(same)
    assert unchanged["divergence"] == pytest.approx(0, abs=1e-8)
    assert unchanged["with"] == unchanged["without"]


def test_what_fires_on_a_prompt_is_listed_the_strongest_first(
    cutaway: Cutaway, dictionary_run: Path
) -> None:
    prompt = "The old king sees the river"
    code, out, err = cutaway("sae", "effect", dictionary_run, "--prompt", prompt, "--json")
    assert code == 0, err
    found = json.loads(out)
    dictionary, model = Dictionary.load(dictionary_run), model_of(dictionary_run)
    values = dictionary.encode(states_of(model, prompt, dictionary.metadata["site"])[1:])
    largest = values.max(0)
    assert [row["feature"] for row in found] == sorted(
        largest.values.nonzero().view(-1).tolist(), key=lambda index: -largest.values[index]
    )
    ids = model.tokens(prompt)[0]
    for row in found:
        place, index = row["position"] - 1, row["feature"]
        assert row["activation"] == pytest.approx(float(values[place, index]))
        assert row["activation"] == pytest.approx(float(largest.values[index]))
        assert row["token"] == model.reads.token(int(ids[row["position"]]))
        assert row["tokens"] == int((values[:, index] > 0).sum())


def test_a_feature_silent_on_the_prompt_is_said_to_be(
    cutaway: Cutaway, dictionary_run: Path
) -> None:
    ask = ["sae", "effect", dictionary_run, "--prompt", "The old king", "--length", 0]
    firing = [row["feature"] for row in json.loads(cutaway(*ask, "--json")[1])]
    silent = next(index for index in range(64) if index not in firing)
    for mode in (["--value", 0], ["--mode", "scale", "--value", 3]):
        code, out, err = cutaway(*ask, "--feature", silent, *mode)
        assert (code, out, len(err.splitlines())) == (0, "", 1), (out, err)
        assert f"feature {silent} does not fire on this prompt, and nothing changes" in err
        assert ", ".join(map(str, firing[:10])) in err
    code, out, _ = cutaway(*ask, "--feature", silent, "--value", 50)
    assert (code, "nats" in out, "does not fire" in out) == (0, True, False)


# -- files of others -------------------------------------------------------------------------------


@pytest.fixture
def params(gpt2_run: Path, tmp_path: Path) -> Path:
    """A Gemma Scope file in a folder whose name says nothing."""
    width = open_model(gpt2_run).width
    draw = np.random.default_rng(0)
    rows = draw.standard_normal((32, width)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    (tmp_path / "theirs").mkdir()
    np.savez(
        tmp_path / "theirs" / "params.npz",
        W_enc=rows.T,
        b_enc=np.zeros(32, np.float32),
        W_dec=rows,
        b_dec=np.zeros(width, np.float32),
        threshold=np.full(32, 0.1, np.float32),
    )
    return tmp_path / "theirs"


def test_a_file_that_says_nothing_of_itself_is_used_with_its_site_named(
    cutaway: Cutaway, params: Path, gpt2_run: Path, corpus: Path, tmp_path: Path
) -> None:
    of = ["--model", gpt2_run]
    text = ["--data", corpus / "text-03.txt", "--tokens", 500]
    asks = [
        ["eval", params, *of, *text],
        ["features", params, *of, *text, "--out", tmp_path / "read"],
        ["effect", params, *of, "--prompt", "The old king"],
    ]
    for ask in asks:
        code, out, err = cutaway("sae", *ask, "--json")
        assert (code, out) == (2, "")
        assert "name its site, as in --site residual.6" in err
        code, out, err = cutaway("sae", *ask, "--site", "0", "--json")
        assert code == 0, err
        assert json.loads(out)
    code, _, err = cutaway("sae", "export", params, "--site", "mlpp.0", "--out", "saved")
    assert (code, "mlpp.0" in err) == (2, True)
    code, _, err = cutaway("sae", "export", params, "--site", "embed", "--out", "saved")
    assert code == 0, err
    assert Dictionary.load(tmp_path / "saved").metadata["site"] == "embed"
    code, _, err = cutaway("sae", "eval", tmp_path / "saved", *of, *text, "--site", "residual.0")
    assert (code, "was trained at embed" in err, len(err.splitlines())) == (2, True, 1)


def test_where_no_text_is_named_it_is_said_which_is_read(
    cutaway: Cutaway, dictionary_run: Path, tmp_path: Path, corpus: Path
) -> None:
    Dictionary.load(dictionary_run).save(tmp_path / "saved")
    code, _, err = cutaway("sae", "features", tmp_path / "saved", "--tokens", 500)
    assert code == 0, err
    assert f"reading over {corpus}; --data names other text" in err


def test_a_table_of_features_has_a_line_for_each(
    cutaway: Cutaway, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where tokens hold a newline, which here every one does."""
    monkeypatch.setattr(Tokenizer, "token", lambda self, id: f"t{id}\n")
    ask = ["sae", "features", own, "--top", 5]
    _, out, _ = cutaway(*ask)
    lines = [line for line in out.splitlines() if line.strip()]
    assert len(lines) == 7
    assert all("⏎" in line for line in lines[2:])
    _, out, _ = cutaway(*ask, "--json")
    assert all("\n" in row["fires on"] for row in json.loads(out))


def test_states_of_another_width_are_refused(dictionary_run: Path) -> None:
    dictionary = Dictionary.load(dictionary_run)
    for use in (dictionary.encode, dictionary.encode_sparse, dictionary):
        with pytest.raises(UserError, match=r"of width 64, and .* of width 16"):
            use(torch.zeros(3, 64))


def model_of(folder: Path) -> Model:
    about = Run.open(folder).record.resolved["dictionary"]["reference"]
    return open_model(about["id"])


def states_of(model: Model, prompt: str, site: str) -> torch.Tensor:
    (states,) = capture(model, model.tokens(prompt), [site]).values()
    return states[0]
