"""SAELens's folders give the same features and reconstructions, both ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cutaway.base.errors import UserError
from cutaway.dictionaries.architectures.registry import ARCHITECTURES
from cutaway.dictionaries.files import export
from cutaway.dictionaries.model.dictionary import Dictionary
from dictionaries.files.cases import (
    ABOUT,
    FEATURES,
    WIDTH,
    K,
    agree,
    only_largest,
    saelens_folder,
    saelens_reference,
    same,
    states,
    trained,
)


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


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("architecture", ["standard", "gated", "jumprelu"])
def test_saelens_rows_of_any_length_keep_it_and_features_are_saelens_own(
    architecture: str, centred: bool, tmp_path: Path
) -> None:
    tensors = saelens_folder(tmp_path, architecture, apply_b_dec_to_input=centred)
    features, reconstruction = saelens_reference(tmp_path, states())
    found = Dictionary.load(tmp_path, device="cpu")
    agree(found, features, reconstruction)
    same(found.contributions(states()).dense(), features * tensors["W_dec"].norm(dim=1))
    assert found.metadata["site"] == "mlp.2"
    assert found.metadata["units"] == "saelens"


def test_saelens_topk_that_chooses_by_length_and_one_that_does_not(tmp_path: Path) -> None:
    tensors = saelens_folder(tmp_path, "topk", k=K)
    agree(Dictionary.load(tmp_path, device="cpu"), *saelens_reference(tmp_path, states()))
    saelens_folder(tmp_path, "topk", k=K, rescale_acts_by_decoder_norm=True)
    length = tensors["W_dec"].norm(dim=1)
    z = ((states() - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]) * length
    features = only_largest(torch.relu(z), K)
    reconstruction = features / length @ tensors["W_dec"] + tensors["b_dec"]
    agree(Dictionary.load(tmp_path, device="cpu"), features, reconstruction)


def test_a_scale_saelens_kept_beside_the_weights_is_folded_as_saelens_folds_it(
    tmp_path: Path,
) -> None:
    saelens_folder(tmp_path, "standard", normalize_activations="expected_average_only_in")
    with pytest.raises(UserError, match=r"activation_scaler\.json: missing"):
        Dictionary.load(tmp_path)
    (tmp_path / "activation_scaler.json").write_text('{"scaling_factor": 0.25}')
    scaled, reconstruction = saelens_reference(tmp_path, 0.25 * states())
    agree(Dictionary.load(tmp_path, device="cpu"), scaled, reconstruction / 0.25)


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
    agree(found, features, reconstruction)
    assert found.metadata["site"] == "residual.7"
    assert found.metadata["bos"] is True  # the default before 6.0


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
