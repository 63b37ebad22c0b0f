"""Dictionaries and probes of heads and neurons, whose states are not as wide as the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cutaway.activations.capture import capture
from cutaway.dictionaries.model.dictionary import Dictionary
from cutaway.features.table import Features
from cutaway.nets.reference import open_model
from cutaway.nets.sites import residual

SETTINGS = ("--tokens", "2k", "--d_hidden", "48", "--target_l0", "6", "--max_steps", "20",
            "--batch_size", "64", "--eval_tokens", "200")  # fmt: skip


@pytest.mark.parametrize("site", ["neurons.0", "heads.0"])
def test_a_dictionary_goes_the_whole_way(
    gpt2_run: Path, cutaway: Callable[..., tuple[int, str, str]], tmp_path: Path, site: str
) -> None:
    code, _, err = cutaway(
        "sae", "pipeline", gpt2_run, "--data", "docstrings", "--layers", site, *SETTINGS,
        "--out", "sae",
    )  # fmt: skip
    assert code == 0, err
    model = open_model(gpt2_run, device="cpu")
    dictionary = Dictionary.load(Path("sae") / site)
    assert dictionary.shape.d_model == model.width_at(site)
    features = Features.load(Path("sae") / site / "features")
    # what a feature promotes is what the logits gain from its row where norms are left out
    rows = dictionary.decoder_weight.detach()
    module = model.place_of(site).module
    with torch.no_grad():
        gains = (module(rows) - module(torch.zeros_like(rows))) @ model.decoder_weight.T
    gains -= gains.mean(1, keepdim=True)
    for index in range(5):
        best = features.row(index)["promoted"][0]
        assert best["logit"] == pytest.approx(float(gains[index].max()), rel=1e-3, abs=1e-5)
    code, _, err = cutaway(
        "sae",
        "effect",
        Path("sae") / site,
        "--feature",
        "1",
        "--value",
        "3",
        "--prompt",
        "Return the",
    )
    assert code == 0, err


def test_sites_of_two_widths_are_read_apart(
    gpt2_run: Path, cutaway: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = cutaway(
        "extract", gpt2_run, "--data", "docstrings", "--layers", "0,neurons.0", "--out", "store"
    )
    assert code == 2
    assert err.count("\n") == 1
    assert "residual.0 is 16 wide and neurons.0 64; sites of different widths need" in err
    assert not Path("store").exists()


def test_directions_reach_the_logits_through_the_output_projection(gpt2_run: Path) -> None:
    model = open_model(gpt2_run, device="cpu")
    tokens = model.tokens("Return the name")
    for site, after in (("neurons.0", "mlp.0"), ("heads.0", "attention.0")):
        states = capture(model, tokens, [site, after])
        bias = model.place_of(site).module(torch.zeros(1, model.width_at(site)))
        expected = (states[after] - bias) @ model.decoder_weight.T
        torch.testing.assert_close(states[site] @ model.decoder_at(site).T, expected)
    assert model.decoder_at(residual(0)) is model.decoder_weight
