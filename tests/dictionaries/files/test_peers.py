"""The libraries themselves, where they are installed, compute what ours does."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from conftest import PATIENCE
from cutaway.dictionaries.architectures.registry import ARCHITECTURES
from cutaway.dictionaries.files import export
from cutaway.dictionaries.model.dictionary import Dictionary
from dictionaries.files.cases import agree, states, trained

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
        note("theirs/" + folder.name, features, sae.decode(features))

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
        loaded, _ = load_dictionary(str(folder), "cpu")
        features = loaded.encode(x)
        note("theirs/" + name, features, loaded.decode(features))

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
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    results = load_file(tmp_path / "results.safetensors")
    names = sorted({name.rpartition("/")[0] for name in results})
    assert len(names) == {"sae_lens": 14, "sparsify": 1, "dictionary_learning": 7}[library]
    for name in names:
        whose, _, which = name.partition("/")
        ours = trained(which) if whose == "ours" else Dictionary.load(tmp_path / name, device="cpu")
        features, reconstruction = results[f"{name}/features"], results[f"{name}/reconstruction"]
        agree(ours, features, reconstruction)
