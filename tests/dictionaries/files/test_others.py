"""Gemma Scope's, sparsify's and dictionary_learning's files give the same features."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cutaway.base.errors import UserError
from cutaway.dictionaries.model.dictionary import Dictionary
from dictionaries.files.cases import (
    FEATURES,
    WIDTH,
    Harmful,
    K,
    agree,
    only_largest,
    saelens_folder,
    saelens_reference,
    states,
)

# -- Gemma Scope -------------------------------------------------------------------------------------


def test_gemma_scope_gives_the_same_features_and_reconstructions(tmp_path: Path) -> None:
    folder = tmp_path / "gemma-scope-2b-pt-res" / "layer_20" / "width_16k" / "average_l0_71"
    t = saelens_folder(folder, "jumprelu", apply_b_dec_to_input=False)
    features, reconstruction = saelens_reference(folder, states())
    np.savez(folder / "params.npz", **{name: value.numpy() for name, value in t.items()})
    (folder / "sae_weights.safetensors").unlink()
    for given in (folder, folder / "params.npz"):
        found = Dictionary.load(given, device="cpu")
        agree(found, features, reconstruction)
        assert found.metadata["site"] == "residual.20"
        assert found.metadata["source"]["model"] == "gemma-scope-2b-pt-res"


def test_gemma_scope_files_with_objects_or_other_shapes_are_refused(tmp_path: Path) -> None:
    harm = np.array([Harmful(tmp_path / "harm")], dtype=object)
    np.savez(tmp_path / "params.npz", W_enc=harm)
    with pytest.raises(UserError, match="refused: holds Python objects"):
        Dictionary.load(tmp_path)
    assert not (tmp_path / "harm").exists()
    np.savez(tmp_path / "params.npz", W_enc=np.ones((4, 8)), W_dec=np.ones((8, 5)))
    with pytest.raises(UserError, match="holds no tensor b_enc"):
        Dictionary.load(tmp_path)
    (tmp_path / "params.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(UserError, match="damaged, not arrays"):
        Dictionary.load(tmp_path)


# -- sparsify ----------------------------------------------------------------------------------------


def sparsify_folder(folder: Path, **config: object) -> dict[str, Tensor]:
    folder.mkdir(parents=True)
    random = torch.Generator().manual_seed(4)
    rows = torch.randn(FEATURES, WIDTH, generator=random)
    tensors = {
        "encoder.weight": torch.randn(FEATURES, WIDTH, generator=random),
        "encoder.bias": torch.randn(FEATURES, generator=random),
        "W_dec": 0.1 * rows / rows.norm(dim=1, keepdim=True),
        "b_dec": torch.randn(WIDTH, generator=random),
    }
    save_file(tensors, folder / "sae.safetensors")
    base = {"expansion_factor": 32, "num_latents": FEATURES, "k": K, "d_in": WIDTH}
    (folder / "cfg.json").write_text(json.dumps(base | config))
    return tensors


def test_sparsify_gives_the_same_features_and_reconstructions(tmp_path: Path) -> None:
    t = sparsify_folder(tmp_path / "layers.6.mlp", activation="topk", transcode=False)
    z = (states() - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"]
    features = only_largest(torch.relu(z), K)
    found = Dictionary.load(tmp_path / "layers.6.mlp", device="cpu")
    agree(found, features, features @ t["W_dec"] + t["b_dec"])
    assert found.metadata["site"] == "mlp.6"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"transcode": True}, "transcode = True: only False is read"),
        ({"activation": "groupmax"}, "activation = 'groupmax'"),
        ({"num_latents": 0}, r"encoder.weight is \(40, 12\), expected \(384, 12\)"),
        ({"k": 0}, "k = 0: expected a whole number"),
    ],
)
def test_what_sparsify_has_and_ours_cannot_be_is_refused(
    config: dict[str, object], says: str, tmp_path: Path
) -> None:
    sparsify_folder(tmp_path / "a", **config)
    with pytest.raises(UserError, match=says):
        Dictionary.load(tmp_path / "a")


# -- dictionary_learning -----------------------------------------------------------------------------


def learnt(kind: str, unit: bool) -> dict[str, Tensor]:
    """A state dict of one of its classes; rows of length 1, or of any."""
    random = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    rows = draw(FEATURES, WIDTH)
    rows = rows / rows.norm(dim=1, keepdim=True) * (1.0 if unit else draw(FEATURES, 1).exp())
    if kind in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"):
        t = {"W_enc": draw(WIDTH, FEATURES), "W_dec": rows, "b_enc": draw(FEATURES)}
    else:
        t = {"encoder.weight": draw(FEATURES, WIDTH), "decoder.weight": rows.T.contiguous()}
    if "BatchTopK" in kind or kind == "AutoEncoderTopK":
        t |= {"threshold": torch.tensor(1.5), "k": torch.tensor(K, dtype=torch.int)}
    if kind == "MatryoshkaBatchTopKSAE":
        t["group_sizes"] = torch.tensor([10, 30])
    if kind == "JumpReluAutoEncoder":
        t["threshold"] = draw(FEATURES).abs()
    if kind == "GatedAutoEncoder":
        t |= {name: draw(FEATURES) / 2 for name in ("gate_bias", "mag_bias", "r_mag")}
    elif "encoder.weight" in t:
        t["encoder.bias"] = draw(FEATURES)
    t[_BIAS.get(kind, "b_dec")] = draw(WIDTH)
    return t


_BIAS = {
    "AutoEncoder": "bias",
    "AutoEncoderNew": "decoder.bias",
    "GatedAutoEncoder": "decoder_bias",
}


def learnt_reference(kind: str, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Features, reconstructions and lengths of rows, from its classes' definitions."""
    t = {name: value.double() for name, value in tensors.items()}
    bias = t[_BIAS.get(kind, "b_dec")]
    encoder = t["W_enc"] if "W_enc" in t else t["encoder.weight"].T
    decoder = t["W_dec"] if "W_dec" in t else t["decoder.weight"].T
    x = states().double()
    z = (x if kind in ("AutoEncoderNew", "JumpReluAutoEncoder") else x - bias) @ encoder
    if kind == "GatedAutoEncoder":
        features = (z + t["gate_bias"] > 0) * torch.relu(t["r_mag"].exp() * z + t["mag_bias"])
    else:
        features = torch.relu(z + t["b_enc" if "b_enc" in t else "encoder.bias"])
    if kind == "AutoEncoderTopK":
        features = only_largest(features, K)
    elif "threshold" in t:
        features = features * (features > t["threshold"])
    return features, features @ decoder + bias, decoder.norm(dim=1)


def learnt_folder(folder: Path, kind: str, tensors: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    trainer = {"dict_class": kind, "lm_name": "pythia", "submodule_name": "resid_post_layer_8"}
    (folder / "config.json").write_text(json.dumps({"trainer": {**trainer, "k": K}, "buffer": {}}))
    torch.save(tensors, folder / "ae.pt")


@pytest.mark.parametrize(
    ("kind", "unit", "becomes"),
    [
        ("AutoEncoder", False, "relu"),
        ("AutoEncoderNew", False, "relu"),
        ("GatedAutoEncoder", False, "gated"),
        ("JumpReluAutoEncoder", False, "jumprelu"),
        ("AutoEncoderTopK", True, "topk"),
        ("BatchTopKSAE", True, "batch_topk"),
        ("BatchTopKSAE", False, "batch_topk"),
        ("MatryoshkaBatchTopKSAE", True, "matryoshka"),
    ],
)
def test_dictionary_learning_gives_the_same_features_and_reconstructions(
    kind: str, unit: bool, becomes: str, tmp_path: Path
) -> None:
    tensors = learnt(kind, unit)
    features, reconstruction, length = learnt_reference(kind, tensors)
    learnt_folder(tmp_path, kind, tensors)
    found = Dictionary.load(tmp_path, device="cpu")
    # its `load_dictionary` brings the rows of an AutoEncoder, and of no other class, to length 1
    agree(found, features * length if kind == "AutoEncoder" else features, reconstruction)
    assert found.architecture == becomes
    assert found.metadata["site"] == "residual.8"
    if becomes == "matryoshka":
        assert found.shape.groups == (10, 40)
    # the same tensors as safetensors are taken instead, and need no pickle beside them
    save_file(tensors, tmp_path / "ae.safetensors")
    (tmp_path / "ae.pt").unlink()
    assert torch.equal(
        Dictionary.load(tmp_path, device="cpu").encode(states()), found.encode(states())
    )


def test_a_matryoshka_of_dictionary_learning_without_its_groups_is_refused(tmp_path: Path) -> None:
    tensors = learnt("MatryoshkaBatchTopKSAE", True)
    del tensors["group_sizes"]
    learnt_folder(tmp_path, "MatryoshkaBatchTopKSAE", tensors)
    with pytest.raises(UserError, match="holds no tensor group_sizes"):
        Dictionary.load(tmp_path)


def test_a_state_dict_is_read_as_torch_reads_it_without_unpickling(tmp_path: Path) -> None:
    """Views, shared and empty blocks, every type, and the versions a module's state dict carries."""
    from cutaway.dictionaries.files.dictionary_learning import read_state_dict

    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    block = torch.arange(24.0)
    given = module.state_dict() | {
        "view": block.view(4, 6).T[1:3],
        "shared": block[5:7],
        "empty": torch.empty(0, 3),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "double": torch.ones((), dtype=torch.float64),
        "flags": torch.tensor([True, False]),
    }
    for name, what in {"plain": given, "module": module.state_dict()}.items():
        torch.save(what, tmp_path / f"{name}.pt")
        found = read_state_dict(tmp_path / f"{name}.pt")
        assert list(found) == list(what)
        for key, tensor in what.items():
            assert found[key].dtype == tensor.dtype
            assert torch.equal(found[key], tensor), key


def test_an_ae_pt_with_anything_but_tensors_is_refused_and_not_run(tmp_path: Path) -> None:
    learnt_folder(tmp_path, "AutoEncoder", learnt("AutoEncoder", True))
    harm = tmp_path / "harm"

    def refused(says: str) -> None:
        with pytest.raises(UserError, match=says) as caught:
            Dictionary.load(tmp_path)
        assert "\n" not in str(caught.value)
        assert not harm.exists()

    torch.save({"bias": torch.ones(3), "harm": Harmful(harm)}, tmp_path / "ae.pt")
    refused(r"ae\.pt: refused: it asks for posix\.mkdir")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "ae.pt")
    refused(r"ae\.pt: refused: it asks for torch\.nn\.modules\.linear\.Linear")
    torch.save({"bias": torch.ones(3), "step": 3}, tmp_path / "ae.pt")
    refused("refused: not a state dict of tensors")
    (tmp_path / "ae.pt").write_bytes(pickle.dumps(Harmful(harm)))
    refused("refused: no archive of torch.save")


def test_an_ae_pt_with_damaged_blocks_is_said_to_be_damaged(tmp_path: Path) -> None:
    learnt_folder(tmp_path, "AutoEncoder", learnt("AutoEncoder", True))
    with zipfile.ZipFile(tmp_path / "ae.pt") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(shorter := io.BytesIO(), "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content[:-4] if name.endswith("data/0") else content)
    (tmp_path / "ae.pt").write_bytes(shorter.getvalue())
    with pytest.raises(UserError, match="damaged: block 0 has"):
        Dictionary.load(tmp_path)
    whole = (tmp_path / "ae.pt").read_bytes()
    shuffle = np.random.default_rng(0)
    for _ in range(200):  # whatever bytes are changed, one line says so
        content = bytearray(whole)
        for place in shuffle.integers(0, len(content), 20):
            content[place] ^= 0x55
        (tmp_path / "ae.pt").write_bytes(content)
        with pytest.raises(UserError, match=r"ae\.pt: (damaged|refused|holds|\w+\.\w+ )"):
            Dictionary.load(tmp_path)
