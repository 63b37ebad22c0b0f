"""Dictionaries, states and folders of others that the tests of formats share."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cutaway.dictionaries.architectures.registry import build
from cutaway.dictionaries.model.dictionary import Dictionary, DictionaryShape

WIDTH, FEATURES, K = 12, 40, 5
ABOUT = {"reference": {"id": "gpt2", "width": WIDTH}, "site": "residual.3", "positions": "all"}


def trained(architecture: str, seed: int = 0) -> Dictionary:
    """Every tensor at values a training could give, a scale far from 1."""
    shape = DictionaryShape(architecture, WIDTH, FEATURES, k=K, groups=(10, FEATURES))
    dictionary, generator = build(shape, seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in dictionary.state_dict().items():
            if name not in ("decoder_weight", "input_scale"):
                tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.2)
        if hasattr(dictionary, "threshold"):
            dictionary.threshold.copy_(dictionary.threshold.abs() + 0.3)
        dictionary.input_scale.fill_(0.37)
    dictionary.metadata = dict(ABOUT)
    return dictionary


def states(rows: int = 64) -> Tensor:
    return 4 * torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(9)) + 1


def same(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> None:
    """Equal but for rounding, in absolute terms at the size of the largest."""
    assert one.shape == other.shape
    assert (one.double() - other.double()).abs().max() <= tolerance * other.abs().max()


def agree(dictionary: Dictionary, features: Tensor, reconstruction: Tensor) -> None:
    """Our dictionary has these features and these reconstructions, some of them active."""
    assert 0 < (features > 0).float().mean() < 0.9
    same(dictionary.encode(states()), features)
    same(dictionary.forward(states()), reconstruction)


class Harmful:
    """Unpickled, it would make a folder."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.place),)


def saelens_reference(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """What SAELens's inference classes compute from a folder, written down from their definition."""
    config = json.loads((folder / "cfg.json").read_text())
    t = {
        name: value.double()
        for name, value in load_file(folder / "sae_weights.safetensors").items()
    }
    z = (x.double() - t["b_dec"] * config["apply_b_dec_to_input"]) @ t["W_enc"]
    if config["architecture"] == "gated":
        features = (z + t["b_gate"] > 0) * torch.relu(z * t["r_mag"].exp() + t["b_mag"])
    else:
        features = torch.relu(z + t["b_enc"])
    if config["architecture"] == "jumprelu":
        features = features * (z + t["b_enc"] > t["threshold"])
    if config["architecture"] == "topk":
        features = only_largest(features, config["k"])
    return features, features @ t["W_dec"] + t["b_dec"]


def only_largest(features: Tensor, k: int) -> Tensor:
    top = features.topk(k, dim=-1)
    return torch.zeros_like(features).scatter(-1, top.indices, top.values)


def saelens_folder(folder: Path, architecture: str, /, **config: object) -> dict[str, Tensor]:
    """A folder with random weights, decoder rows of any length, in SAELens's form."""
    folder.mkdir(parents=True, exist_ok=True)
    random = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    tensors = {
        "W_enc": draw(WIDTH, FEATURES) / 3,
        "W_dec": draw(FEATURES, WIDTH),
        "b_dec": draw(WIDTH),
    }
    biases = ("b_gate", "b_mag", "r_mag") if architecture == "gated" else ("b_enc",)
    tensors |= {name: draw(FEATURES) / 3 for name in biases}
    if architecture == "jumprelu":
        tensors["threshold"] = draw(FEATURES) + 0.5  # below zero too: as good as zero there
    save_file(tensors, folder / "sae_weights.safetensors")
    base = {
        "d_in": WIDTH,
        "d_sae": FEATURES,
        "dtype": "float32",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "metadata": {"sae_lens_version": "6.5.0", "hook_name": "blocks.2.hook_mlp_out"},
        "architecture": architecture,
    }
    (folder / "cfg.json").write_text(json.dumps(base | config))
    return tensors
