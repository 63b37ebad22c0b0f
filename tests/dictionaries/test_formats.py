"""Dictionaries on disk: ours come back the same, other libraries' give the same features."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cutaway.base.errors import UserError
from cutaway.dictionaries.base import Dictionary, DictionaryShape
from cutaway.dictionaries.formats import export, formats_of
from cutaway.dictionaries.registry import ARCHITECTURES, build
from cutaway.runs.folder import Run

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
    """Our dictionary has unit rows, these features and these reconstructions, some of them active."""
    lengths = dictionary.decoder_weight.norm(dim=1)
    assert torch.allclose(lengths, torch.ones(()), atol=1e-6)
    assert 0 < (features > 0).float().mean() < 0.9
    same(dictionary.encode(states()), features)
    same(dictionary.forward(states()), reconstruction)


# -- our own form ------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_saved_dictionary_comes_back_bit_for_bit(architecture: str, tmp_path: Path) -> None:
    dictionary = trained(architecture)
    dictionary.save(tmp_path / "saved")
    found = Dictionary.load(tmp_path / "saved", device="cpu")
    assert type(found) is type(dictionary)
    assert found.shape == dictionary.shape
    for name, tensor in dictionary.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    assert torch.equal(found.encode(states()), dictionary.encode(states()))
    assert {name: found.metadata[name] for name in ABOUT} == ABOUT
    assert found.metadata["format"] == 1
    assert formats_of(tmp_path / "saved") == "cutaway"


def test_saving_again_what_was_loaded_changes_nothing(tmp_path: Path) -> None:
    trained("gated").save(tmp_path / "a")
    Dictionary.load(tmp_path / "a").save(tmp_path / "b")
    for name in ("dictionary.json", "dictionary.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A training's folder with checkpoints of steps 10 and 20; 10 is the best."""
    about = {"shape": trained("topk").describe(), **ABOUT}
    with Run.create(
        tmp_path / "run", study="dictionary", config={}, resolved={"dictionary": about}
    ) as run:
        for step in (10, 20):
            run.checkpoints.save(step, {"model": trained("topk", step).state_dict()}, {})
        run.checkpoints.mark_best(10, 0.1)
        run.finish({})
    return tmp_path / "run"


@pytest.mark.parametrize(("step", "seed"), [("best", 10), ("last", 20), (20, 20), ("10", 10)])
def test_a_run_gives_the_checkpoint_asked_for(run: Path, step: int | str, seed: int) -> None:
    found = Dictionary.load(run, step=step, device="cpu")
    assert torch.equal(found.encode(states()), trained("topk", seed).encode(states()))
    assert found.metadata["step"] == seed
    assert found.metadata["site"] == "residual.3"


def test_a_damaged_best_checkpoint_is_passed_over(run: Path) -> None:
    place = run / "checkpoints" / "step-000010" / "model.safetensors"
    place.write_bytes(place.read_bytes()[:-4])
    assert Dictionary.load(run).metadata["step"] == 20
    with pytest.raises(UserError, match="damaged"):
        Dictionary.load(run, step=10)


def test_a_run_says_which_steps_it_keeps_and_when_it_trains_no_dictionary(
    run: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"step = 15: .* keeps checkpoints of steps 10, 20"):
        Dictionary.load(run, step=15)
    with Run.create(tmp_path / "other", study="grokking", config={}) as other:
        other.finish({})
    with pytest.raises(UserError, match="study 'grokking', which trains no dictionary"):
        Dictionary.load(tmp_path / "other")


def altered(field: str, value: object) -> Callable[[Path], None]:
    def alter(folder: Path) -> None:
        path = folder / "dictionary.json"
        content = json.loads(path.read_text())
        (content["shape"] if field in content["shape"] else content)[field] = value
        path.write_text(json.dumps(content))

    return alter


def flipped(folder: Path) -> None:
    path = folder / "dictionary.safetensors"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def cut(folder: Path) -> None:
    path = folder / "dictionary.safetensors"
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (altered("format", 2), r"format 2 is newer than this cutaway reads \(1\)"),
        (altered("d_hidden", 41), r"encoder_weight is \(40, 12\), expected \(41, 12\)"),
        (altered("d_model", "12"), r"d_model = '12': expected a whole number"),
        (altered("k", 50), r"k = 50: expected at most 40"),
        (altered("architecture", "vanilla"), r"architecture = 'vanilla': expected one of jumprelu"),
        (altered("architecture", "gated"), r"holds no tensor log_magnitude"),
        (lambda folder: (folder / "dictionary.json").write_text("{"), "damaged, not JSON"),
        (lambda folder: (folder / "dictionary.json").unlink(), r"dictionary\.json: missing"),
        (lambda folder: (folder / "dictionary.safetensors").unlink(), r"safetensors: missing"),
        (cut, "damaged, not safetensors"),
        (flipped, "damaged, its content differs from its checksum"),
    ],
)
def test_what_is_wrong_with_a_saved_dictionary_is_said_in_one_line(
    damage: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    trained("topk").save(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=says) as caught:
        Dictionary.load(tmp_path)
    assert "\n" not in str(caught.value)


class Harmful:
    """Unpickled, it would make a folder."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".pkl", ".ckpt"])
def test_a_pickle_is_refused_by_name_and_never_run(suffix: str, tmp_path: Path) -> None:
    (path := tmp_path / f"model{suffix}").write_bytes(pickle.dumps(Harmful(tmp_path / "harm")))
    for given in (path, tmp_path):
        with pytest.raises(UserError, match=rf"model{suffix}: refused: a pickle runs"):
            Dictionary.load(given)
    assert not (tmp_path / "harm").exists()


def test_what_is_no_dictionary_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        Dictionary.load(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no dictionary; looked for"):
        Dictionary.load(tmp_path)
    with pytest.raises(UserError, match="did you mean 'saelens'"):
        export(trained("topk"), tmp_path, "saelen")


# -- SAELens -----------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_export_to_saelens_means_the_same_and_comes_back(
    architecture: str, tmp_path: Path
) -> None:
    dictionary = trained(architecture)
    export(dictionary, tmp_path, "saelens")
    features, reconstruction = saelens_reference(tmp_path, states())
    agree(dictionary, features, reconstruction)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["metadata"]["hook_name"] == "blocks.3.hook_resid_post"
    assert config["metadata"]["model_name"] == "gpt2"

    found = Dictionary.load(tmp_path, device="cpu")
    agree(found, features, reconstruction)
    assert {name: found.metadata[name] for name in ABOUT} == ABOUT
    assert found.metadata["source"]["format"] == "saelens"


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


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("architecture", ["standard", "gated", "jumprelu"])
def test_saelens_rows_of_any_length_are_folded_into_unit_ones(
    architecture: str, centred: bool, tmp_path: Path
) -> None:
    tensors = saelens_folder(tmp_path, architecture, apply_b_dec_to_input=centred)
    features, reconstruction = saelens_reference(tmp_path, states())
    found = Dictionary.load(tmp_path, device="cpu")
    agree(found, features * tensors["W_dec"].norm(dim=1), reconstruction)
    assert found.metadata["site"] == "mlp.2"


def test_saelens_topk_that_chooses_by_length_is_folded_and_any_other_refused(
    tmp_path: Path,
) -> None:
    tensors = saelens_folder(tmp_path, "topk", k=K)
    with pytest.raises(UserError, match="decoder rows have lengths from"):
        Dictionary.load(tmp_path)
    saelens_folder(tmp_path, "topk", k=K, rescale_acts_by_decoder_norm=True)
    length = tensors["W_dec"].norm(dim=1)
    z = ((states() - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]) * length
    features = only_largest(torch.relu(z), K)
    reconstruction = features / length @ tensors["W_dec"] + tensors["b_dec"]
    agree(Dictionary.load(tmp_path, device="cpu"), features, reconstruction)


def test_a_scale_saelens_kept_beside_the_weights_becomes_the_input_scale(tmp_path: Path) -> None:
    tensors = saelens_folder(tmp_path, "standard", normalize_activations="expected_average_only_in")
    with pytest.raises(UserError, match=r"activation_scaler\.json: missing"):
        Dictionary.load(tmp_path)
    (tmp_path / "activation_scaler.json").write_text('{"scaling_factor": 0.25}')
    scaled, reconstruction = saelens_reference(tmp_path, 0.25 * states())
    features = scaled * tensors["W_dec"].norm(dim=1) / 0.25
    agree(Dictionary.load(tmp_path, device="cpu"), features, reconstruction / 0.25)


def test_configs_of_saelens_before_6_are_understood(tmp_path: Path) -> None:
    saelens_folder(tmp_path, "standard")
    features, reconstruction = saelens_reference(tmp_path, states())
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    save_file(
        tensors | {"scaling_factor": torch.ones(FEATURES)}, tmp_path / "sae_weights.safetensors"
    )
    old = {"d_in": WIDTH, "d_sae": FEATURES, "hook_point": "blocks.8.hook_resid_pre"}
    (tmp_path / "cfg.json").write_text(json.dumps(old))
    found = Dictionary.load(tmp_path, device="cpu")
    agree(found, features * tensors["W_dec"].norm(dim=1), reconstruction)
    assert found.metadata["site"] == "residual.7"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"architecture": "transcoder"}, "architecture = 'transcoder': expected one of standard"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations = 'layer_norm'"),
        ({"d_sae": 41}, r"W_enc is \(12, 40\), expected \(12, 41\)"),
        ({"architecture": "jumprelu"}, "holds no tensor threshold"),
        ({"architecture": ["topk"]}, r"architecture = \['topk'\]: expected text"),
        ({"d_sae": "40"}, "d_sae = '40': expected a whole number"),
        ({"metadata": "x"}, "metadata = 'x': expected an object"),
        ({"metadata": {"hook_name": 3}}, "metadata.hook_name = 3: expected text"),
        ({"activation_fn_kwargs": "k"}, "activation_fn_kwargs = 'k': expected an object"),
        ({"matryoshka_widths": ["a"]}, r"matryoshka_widths = \['a'\]: expected whole numbers"),
        ({"normalize_activations": ["none"]}, "expected text or true or false"),
    ],
)
def test_what_saelens_has_and_ours_cannot_be_is_refused(
    config: dict[str, object], says: str, tmp_path: Path
) -> None:
    saelens_folder(tmp_path, "standard", **config)
    with pytest.raises(UserError, match=says):
        Dictionary.load(tmp_path)


# -- Gemma Scope -------------------------------------------------------------------------------------


def test_gemma_scope_gives_the_same_features_times_the_length_of_their_rows(tmp_path: Path) -> None:
    folder = tmp_path / "gemma-scope-2b-pt-res" / "layer_20" / "width_16k" / "average_l0_71"
    t = saelens_folder(folder, "jumprelu", apply_b_dec_to_input=False)
    features, reconstruction = saelens_reference(folder, states())
    np.savez(folder / "params.npz", **{name: value.numpy() for name, value in t.items()})
    (folder / "sae_weights.safetensors").unlink()
    for given in (folder, folder / "params.npz"):
        found = Dictionary.load(given, device="cpu")
        agree(found, features * t["W_dec"].norm(dim=1), reconstruction)
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
    agree(found, features * 0.1, features @ t["W_dec"] + t["b_dec"])
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
        ("BatchTopKSAE", False, "jumprelu"),
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
    agree(found, features * length, reconstruction)
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
    from cutaway.dictionaries.formats.dictionary_learning import read_state_dict

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


# -- the libraries themselves ------------------------------------------------------------------------

# Run by an interpreter that has them: encodes what we exported, and saves what they make.
_PEER = '''
import json, sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file

place = Path(sys.argv[1])
x = load_file(place / "states.safetensors")["x"]
results = {}

def note(name, features, reconstruction):
    results[name + "/features"] = features.detach().float().contiguous()
    results[name + "/reconstruction"] = reconstruction.detach().float().contiguous()

def shake(module, threshold=None):
    """Values a training could leave; decoder rows of any length where the class allows it."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
    if threshold is not None:
        threshold.data.fill_(0.7)

if sys.argv[2] == "saelens":
    from sae_lens import SAE, BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens import GatedSAE, GatedSAEConfig, JumpReLUSAE, JumpReLUSAEConfig
    from sae_lens import MatryoshkaBatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAEConfig
    from sae_lens import StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig

    for folder in sorted((place / "ours").iterdir()):
        sae = SAE.load_from_disk(folder)
        note("ours/" + folder.name, sae.encode(x), sae.decode(sae.encode(x)))
    size = {"d_in": x.shape[1], "d_sae": 40}
    made = {
        "standard": StandardSAE(StandardSAEConfig(**size)),
        "gated": GatedSAE(GatedSAEConfig(**size)),
        "jumprelu": JumpReLUSAE(JumpReLUSAEConfig(**size, apply_b_dec_to_input=False)),
        "topk": TopKSAE(TopKSAEConfig(**size, k=5, rescale_acts_by_decoder_norm=True)),
    }
    for name, sae in made.items():
        shake(sae)
        sae.save_model(place / "theirs" / name)
    widths = {"k": 5, "matryoshka_widths": [10, 40]}
    for name, sae in {
        "batchtopk": BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**size, k=5)),
        "matryoshka": MatryoshkaBatchTopKTrainingSAE(
            MatryoshkaBatchTopKTrainingSAEConfig(**size, **widths)
        ),
    }.items():
        shake(sae, sae.topk_threshold)
        sae.save_inference_model(place / "theirs" / name)
        sae.save_model(place / "theirs" / (name + "-checkpoint"))
    for folder in sorted((place / "theirs").iterdir()):
        source = folder.name.removesuffix("-checkpoint")
        sae = SAE.load_from_disk(place / "theirs" / source)
        features = sae.encode(x)
        length = 1.0 if source == "topk" else sae.W_dec.norm(dim=1)
        note("theirs/" + folder.name, features * length, sae.decode(features))

if sys.argv[2] == "sparsify":
    from sparsify import SparseCoder, SparseCoderConfig

    coder = SparseCoder(x.shape[1], SparseCoderConfig(num_latents=40, k=5))
    shake(coder)
    coder.set_decoder_norm_to_unit_norm()
    coder.save_to_disk(place / "theirs" / "layers.2")
    acts, indices, _ = coder.encode(x)
    features = torch.zeros(len(x), 40).scatter(-1, indices, acts)
    note("theirs/layers.2", features, coder.decode(acts, indices))

if sys.argv[2] == "dictionary_learning":
    from dictionary_learning import dictionary
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK
    from dictionary_learning.utils import load_dictionary

    d = x.shape[1]
    for sae in (
        dictionary.AutoEncoder(d, 40),
        dictionary.AutoEncoderNew(d, 40),
        dictionary.GatedAutoEncoder(d, 40),
        dictionary.JumpReluAutoEncoder(d, 40),
        AutoEncoderTopK(d, 40, 5),
        BatchTopKSAE(d, 40, 5),
        MatryoshkaBatchTopKSAE(d, 40, 5, [10, 30]),
    ):
        name = type(sae).__name__
        shake(sae, getattr(sae, "threshold", None))
        if name == "AutoEncoderTopK":
            sae.decoder.weight.data /= sae.decoder.weight.norm(dim=0)
        folder = place / "theirs" / name
        folder.mkdir(parents=True)
        torch.save(sae.state_dict(), folder / "ae.pt")
        trainer = {"dict_class": name, "k": 5, "submodule_name": None, "lm_name": "none"}
        (folder / "config.json").write_text(json.dumps({"trainer": trainer}))
        if name == "AutoEncoder":  # its loader folds lengths into the encoder, the others' do not
            length = 1.0
        else:
            rows = sae.W_dec if hasattr(sae, "W_dec") else sae.decoder.weight.T
            length = rows.norm(dim=1)
        loaded, _ = load_dictionary(str(folder), "cpu")
        features = loaded.encode(x)
        note("theirs/" + name, features * length, loaded.decode(features))

save_file(results, place / "results.safetensors")
'''


def peers_python(library: str) -> str:
    """An interpreter that has the library: CUTAWAY_PEERS_PYTHON, or this one."""
    if named := os.environ.get("CUTAWAY_PEERS_PYTHON"):
        return named
    if importlib.util.find_spec(library):
        return sys.executable
    pytest.skip(f"{library} is not installed; CUTAWAY_PEERS_PYTHON can name a Python that has it")


@pytest.mark.parametrize("library", ["sae_lens", "sparsify", "dictionary_learning"])
def test_the_library_itself_gives_the_same_features_and_reconstructions(
    library: str, tmp_path: Path
) -> None:
    python = peers_python(library)
    for architecture in ARCHITECTURES:
        export(trained(architecture), tmp_path / "ours" / architecture, "saelens")
    save_file({"x": states()}, tmp_path / "states.safetensors")
    (tmp_path / "peer.py").write_text(_PEER)
    command = [python, "peer.py", str(tmp_path), library.replace("sae_lens", "saelens")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    results = load_file(tmp_path / "results.safetensors")
    names = sorted({name.rpartition("/")[0] for name in results})
    assert len(names) == {"sae_lens": 14, "sparsify": 1, "dictionary_learning": 7}[library]
    for name in names:
        whose, _, which = name.partition("/")
        ours = trained(which) if whose == "ours" else Dictionary.load(tmp_path / name, device="cpu")
        features, reconstruction = results[f"{name}/features"], results[f"{name}/reconstruction"]
        agree(ours, features, reconstruction)
