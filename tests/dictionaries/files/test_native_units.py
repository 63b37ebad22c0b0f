"""Every form of another library keeps its own units, and what is written again is what was read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cutaway.dictionaries import origin
from cutaway.dictionaries.architectures.registry import ARCHITECTURES
from cutaway.dictionaries.files import export
from cutaway.dictionaries.model.dictionary import Dictionary
from dictionaries.files.cases import (
    K,
    saelens_folder,
    saelens_reference,
    same,
    states,
    trained,
)
from dictionaries.files.test_others import learnt, learnt_folder, sparsify_folder


def saelens(architecture: str, **config: object) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        saelens_folder(folder, architecture, **config)
        if config.get("normalize_activations"):
            (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.3}')

    return make


def gemma_scope(folder: Path) -> None:
    tensors = saelens_folder(folder, "jumprelu")
    (folder / "sae_weights.safetensors").unlink()
    np.savez(folder / "params.npz", **{name: value.numpy() for name, value in tensors.items()})


def dictionary_learning(kind: str) -> Callable[[Path], None]:
    return lambda folder: learnt_folder(folder, kind, learnt(kind, unit=False))


SCALED = {"normalize_activations": "expected_average_only_in"}
FOREIGN: dict[str, Callable[[Path], None]] = {
    **{
        f"saelens {architecture}, centred {centred}": saelens(
            architecture,
            apply_b_dec_to_input=centred,
            **({"k": K} if "topk" in architecture else {}),
        )
        for architecture in ("standard", "gated", "jumprelu", "topk")
        for centred in (True, False)
    },
    "saelens topk rescaled": saelens("topk", k=K, rescale_acts_by_decoder_norm=True),
    "saelens standard scaled": saelens("standard", **SCALED),
    "saelens jumprelu scaled": saelens("jumprelu", **SCALED),
    "gemma scope": gemma_scope,
    "sparsify": lambda folder: sparsify_folder(folder) and None,
    **{
        f"dictionary_learning {kind}": dictionary_learning(kind)
        for kind in (
            *("AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "JumpReluAutoEncoder"),
            *("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"),
        )
    },
}
OWN = {f"own {name}": name for name in ARCHITECTURES}


def loaded(name: str, folder: Path) -> Dictionary:
    if name in OWN:
        export(trained(OWN[name]), folder, "saelens")
    else:
        FOREIGN[name](folder)
    return Dictionary.load(folder, device="cpu")


@pytest.mark.parametrize("form", ["saelens", "cutaway"])
@pytest.mark.parametrize("name", [*FOREIGN, *OWN])
def test_read_written_and_read_again_is_the_same_bit_for_bit(
    name: str, form: str, tmp_path: Path
) -> None:
    first = loaded(name, tmp_path / "first")
    export(first, tmp_path / "second", form)
    second = Dictionary.load(tmp_path / "second", device="cpu")
    assert second.shape == first.shape
    assert second.subtracts_bias == first.subtracts_bias
    one, two = first.state_dict(), second.state_dict()
    assert one.keys() == two.keys()
    assert [key for key in one if not torch.equal(one[key], two[key])] == []
    assert torch.equal(first.encode(states()), second.encode(states()))
    for key in ("site", "positions", "bos", "context_length"):
        assert second.metadata.get(key) == first.metadata.get(key)


@pytest.mark.parametrize("name", [one for one in FOREIGN if one.startswith("saelens")])
def test_saelens_means_the_same_by_the_first_file_and_by_the_second(
    name: str, tmp_path: Path
) -> None:
    first = loaded(name, tmp_path / "first")
    export(first, tmp_path / "second", "saelens")
    features, reconstruction = saelens_reference(tmp_path / "second", states())
    same(first.encode(states()), features)
    same(first.forward(states()), reconstruction)
    if "scaled" not in name and "rescaled" not in name:  # nothing was folded: the very tensors
        was, now = (
            load_file(tmp_path / place / "sae_weights.safetensors") for place in ("first", "second")
        )
        assert all(torch.equal(was[key], now[key]) for key in was)
        old, new = (
            json.loads((tmp_path / place / "cfg.json").read_text()) for place in ("first", "second")
        )
        assert old["apply_b_dec_to_input"] == new["apply_b_dec_to_input"]


@pytest.mark.parametrize("name", FOREIGN)
def test_decoding_what_was_encoded_is_the_reconstruction(name: str, tmp_path: Path) -> None:
    found = loaded(name, tmp_path / "a")
    same(found.decode(found.encode(states())), found.forward(states()))
    moved = found.contributions(states()).dense()
    unit = found.decoder_weight / found.decoder_weight.norm(dim=1, keepdim=True)
    same(moved @ unit + found.decoder_bias, found.forward(states()))


def test_units_are_told_where_a_value_is_not_its_own_length(tmp_path: Path) -> None:
    found = loaded("saelens jumprelu, centred True", tmp_path / "a")
    said = origin.units(found)
    assert said is not None
    assert said.startswith("activations are those of SAELens, whose decoder rows have lengths from")
    assert origin.units(trained("topk")) is None


def test_an_import_of_before_units_were_kept_gives_what_it_gave(tmp_path: Path) -> None:
    """Such a file has rows of length 1, folded into the encoder, and no `units`."""
    FOREIGN["saelens standard, centred True"](tmp_path / "theirs")
    tensors = load_file(tmp_path / "theirs" / "sae_weights.safetensors")
    features, _ = saelens_reference(tmp_path / "theirs", states())
    length = tensors["W_dec"].norm(dim=1)
    old = trained("relu")
    with torch.no_grad():
        old.encoder_weight.copy_((tensors["W_enc"] * length).T)
        old.encoder_bias.copy_(tensors["b_enc"] * length)
        old.decoder_weight.copy_(tensors["W_dec"] / length[:, None])
        old.decoder_bias.copy_(tensors["b_dec"])
        old.input_scale.fill_(1.0)
    old.save(tmp_path / "old")
    content = json.loads((tmp_path / "old" / "dictionary.json").read_text())
    assert "centred" not in content["shape"]
    found = Dictionary.load(tmp_path / "old", device="cpu")
    same(found.encode(states()), features * length)
    assert origin.units(found) is None


def test_a_threshold_below_zero_acts_as_zero_and_is_written_back(tmp_path: Path) -> None:
    tensors = saelens_folder(tmp_path / "a", "jumprelu")
    tensors["threshold"] = tensors["threshold"] - 2
    save_file(tensors, tmp_path / "a" / "sae_weights.safetensors")
    found = Dictionary.load(tmp_path / "a", device="cpu")
    same(found.encode(states()), saelens_reference(tmp_path / "a", states())[0])
    export(found, tmp_path / "b", "saelens")
    again = load_file(tmp_path / "b" / "sae_weights.safetensors")
    assert torch.equal(again["threshold"], tensors["threshold"])
