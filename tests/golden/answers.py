"""What goldens are asked in Python, through public names: each answer a dictionary of tensors.

`ANSWERS[name][0](folder)` opens what lies in a folder of goldens; the maker keeps what it gives in
`expected/NAME.safetensors`, and a test asks again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from golden.recipes import ARCHITECTURES

DICTIONARIES = (
    *(f"dictionaries/{name}" for name in ARCHITECTURES),
    *("dictionaries/measured", "dictionaries/extended", "dictionaries/orthogonality"),
    *("dictionaries/streaming", "dictionaries/synthetic", "dictionaries/superposition"),
    *("pipeline/residual.0", "pipeline/residual.1"),
    *("exports/own", "exports/saelens", "exports/saelens-gated", "exports/saelens-topk"),
)
MODELS = ("language/gpt2", "language/backpack", "language/extended", "exports/huggingface")
NETWORKS = ("routed", "transformer", "grokked", "extended", "sweep/lr0.01_s0", "stacked/lr0.01_s0")
STORES = ("float32", "bfloat16", "int8", "killed")
PROBES = ("exact", "mass-mean", "minibatch", "mlp", "classes", "words", "extended")
PROMPT = "The old king remembers the quiet sea at night."


def _there(folder: Path, names: Iterable[str], below: str = ".") -> list[str]:
    """Those of the names that this version has."""
    return [name for name in names if (folder / below / name).is_dir()]


def logits(folder: Path) -> dict[str, Tensor]:
    """Of every language model on a prompt, of every grokking network on all pairs."""
    import cutaway
    from cutaway.nets import load

    found = {}
    for name in _there(folder, MODELS):
        model = cutaway.open_model(folder / name)
        found[name] = model.logits(model.tokens(PROMPT)[:, :16])
    for name in _there(folder, NETWORKS, "grokking"):
        run = load(folder / "grokking" / name, step="last")
        p = run.config["p"]
        found[name] = run.model(torch.cartesian_prod(torch.arange(p), torch.arange(p))[:40])
    return found


def states(folder: Path) -> dict[str, Tensor]:
    """The first rows of every store, as float32."""
    from cutaway.activations.store import ActivationStore

    found = {}
    for name in _there(folder, STORES, "stores"):
        store = ActivationStore(folder / "stores" / name)
        for site in store.sites:
            found[f"{name}.{site}"] = store.read(site, 0, 32)
        found[f"{name}.tokens"] = store.tokens(0, 32)
    return found


def codes(folder: Path) -> dict[str, Tensor]:
    """Features and reconstructions, by every dictionary, of the first states of a store."""
    import cutaway
    from cutaway.activations.store import ActivationStore

    rows = ActivationStore(folder / "stores/float32").read("1", 0, 24)
    found = {}
    for name in _there(folder, DICTIONARIES):
        dictionary = cutaway.Dictionary.load(folder / name)
        found[f"{name}.features"] = features = dictionary.encode(rows)
        found[f"{name}.states"] = dictionary.decode(features)
    return found


def probabilities(folder: Path) -> dict[str, Tensor]:
    """By every probe, for every token of a prompt."""
    import cutaway
    from cutaway.probes.view.reading import open_probes, read_tokens

    model = cutaway.open_model(folder / "language/gpt2")
    tokens = model.tokens(PROMPT)[0]
    return {
        name: read_tokens(model, open_probes(folder / "probes" / name), tokens, own=False)
        .probabilities.float()
        .contiguous()
        for name in _there(folder, PROBES, "probes")
    }


def progress(folder: Path) -> dict[str, Tensor]:
    """Progress measures over the checkpoints of a run that grokked."""
    from cutaway.grokking.progress import progress_measures

    table = progress_measures(folder / "grokking/grokked")
    return {
        name: torch.tensor(table[name].to_pylist(), dtype=torch.float64)
        for name in table.column_names
        if table[name].type in ("double", "int64")
    }


# name: (what answers, the folder without which there is nothing to ask)
ANSWERS = {
    "logits": (logits, "language/gpt2"),
    "states": (states, "stores"),
    "codes": (codes, "dictionaries"),
    "probabilities": (probabilities, "probes"),
    "progress": (progress, "grokking/grokked"),
}


def save_answers(folder: Path) -> None:
    """Ask everything in `folder` and keep the answers in its `expected/`."""
    from safetensors.torch import save_file

    for name, (answer, needed) in ANSWERS.items():
        if not (folder / needed).is_dir():
            continue
        found = {key: value.contiguous().clone() for key, value in answer(folder).items()}
        save_file(found, folder / "expected" / f"{name}.safetensors")
