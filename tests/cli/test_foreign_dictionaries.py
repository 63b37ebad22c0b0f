"""A SAELens dictionary with rows of any length, used by the commands beside its twin of unit rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from cutaway.dictionaries.model.dictionary import Dictionary

Cutaway = Callable[..., tuple[int, str, str]]
WIDTH, FEATURES = 16, 48  # of the model of the fixtures


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """`any` has rows of lengths around 1/3 to 3; `unit` the same with these in the encoder."""
    place = tmp_path_factory.mktemp("saelens")
    random = torch.Generator().manual_seed(2)
    rows = torch.randn(FEATURES, WIDTH, generator=random)
    rows /= rows.norm(dim=1, keepdim=True)
    length = torch.rand(FEATURES, generator=random) * 2.5 + 0.3
    encoder, bias = rows.T.contiguous(), torch.full((FEATURES,), -0.02)
    both = {"W_enc": encoder, "W_dec": rows, "b_enc": bias, "b_dec": torch.zeros(WIDTH)}
    scaled = both | {"W_dec": rows * length[:, None]}
    scaled |= {"W_enc": encoder / length, "b_enc": bias / length}
    for name, tensors in {"any": scaled, "unit": both}.items():
        (place / name).mkdir()
        save_file(tensors, place / name / "sae_weights.safetensors")
        config = {
            "d_in": WIDTH,
            "d_sae": FEATURES,
            "architecture": "standard",
            "apply_b_dec_to_input": True,
            "normalize_activations": "none",
            "metadata": {
                "sae_lens_version": "6.20.0",
                "model_name": "some-other-model",
                "hook_name": "blocks.0.hook_resid_post",
                "prepend_bos": False,
                "context_size": 8,
            },
        }
        (place / name / "cfg.json").write_text(json.dumps(config))
    return place / "any", place / "unit"


def test_figures_are_those_of_the_twin_and_values_the_file_s_own(
    cutaway: Cutaway, folders: tuple[Path, Path], gpt2_run: Path, corpus: Path, tmp_path: Path
) -> None:
    figures: list[dict[str, Any]] = []
    for folder in folders:
        code, out, err = cutaway(
            *("sae", "eval", folder, "--model", gpt2_run, "--data", corpus),
            *("--tokens", 300, "--json"),
        )
        assert code == 0, err
        assert "names the model 'some-other-model'" in err
        told = "activations are those of SAELens, whose decoder rows have lengths from"
        assert (told in err) is (folder.name == "any")
        figures += json.loads(out)
    any_rows, unit = figures
    assert any_rows["tokens"] == unit["tokens"]
    for name in ("l0", "explained_variance", "normalised_mse", "cosine", "ce_spliced", "kl"):
        assert any_rows[name] == pytest.approx(unit[name], rel=1e-3, abs=1e-6), name

    length = load_file(folders[0] / "sae_weights.safetensors")["W_dec"].norm(dim=1)
    largest = []
    for folder in folders:
        place = tmp_path / folder.name
        code, _, err = cutaway(
            *("sae", "features", folder, "--model", gpt2_run, "--data", corpus),
            *("--tokens", 300, "--out", place),
        )
        assert code == 0, err
        facts = json.loads((place / "features.json").read_text())
        assert (facts["units"] is not None) is (folder.name == "any")
        assert (
            "Units: activations are those of SAELens" in (place / "features.html").read_text()
        ) is (folder.name == "any")
        largest.append(torch.tensor(pq.read_table(place / "features.parquet")["max"].to_pylist()))
    assert torch.allclose(largest[0] * length, largest[1], rtol=1e-4, atol=1e-5)


def test_an_effect_is_in_the_file_s_units(
    cutaway: Cutaway, folders: tuple[Path, Path], gpt2_run: Path
) -> None:
    length = load_file(folders[0] / "sae_weights.safetensors")["W_dec"].norm(dim=1)
    moved = []
    for folder, value in zip(folders, (4.0, 4.0 * float(length[3])), strict=True):
        code, out, err = cutaway(
            *("sae", "effect", folder, "--feature", 3, "--value", value, "--mode", "add"),
            *("--prompt", "The old king sees", "--model", gpt2_run, "--length", 0, "--json"),
        )
        assert code == 0, err
        moved += json.loads(out)
    first, second = moved
    assert first["divergence"] == pytest.approx(second["divergence"], rel=1e-3)
    for one, two in zip(first["tokens"], second["tokens"], strict=True):
        assert one["token_id"] == two["token_id"]
        assert one["change"] == pytest.approx(two["change"], rel=1e-3)


def test_suite_measures_fold_the_lengths(folders: tuple[Path, Path], gpt2_run: Path) -> None:
    from cutaway.evaluations.suite.encoding import encode_texts, unit_decoder
    from cutaway.nets.reference import open_model

    model = open_model(gpt2_run, device="cpu")
    texts = ["The old king sees the river.", "My sister paints a red house at night."]
    one, two = (Dictionary.load(folder, device="cpu") for folder in folders)
    a, b = (encode_texts(each, model, texts) for each in (one, two))
    every = torch.arange(FEATURES)
    left, right = (found.features["dictionary"].columns(every) for found in (a, b))
    assert torch.allclose(left, right, rtol=1e-4, atol=1e-6)
    assert left.count_nonzero()
    assert torch.allclose(unit_decoder(one), unit_decoder(two), atol=1e-6)
