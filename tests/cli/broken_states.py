"""Hidden states and a dictionary to break, and ways to break them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from cutaway.activations.shards import mapped, write_shard
from cutaway.activations.store import ActivationStore


def make_states_and_dictionary(root: Path) -> None:
    """What the cases break: a store and a dictionary beside the run `gpt2` in `root`."""
    from cutaway.activations.extraction import extract
    from cutaway.studies.train import train

    settings = {"model": str(root / "gpt2"), "data": str(root / "corpus.txt"), "layers": "embed,0"}
    extract({**settings, "tokens": 3_000}, root / "states")
    settings = {"activations": str(root / "states"), "layer": "0", "d_hidden": 32, "target_l0": 4}
    train("dictionary", {**settings, "batch_size": 64, "max_steps": 40}, root / "dictionary")


def cut(store: Path) -> None:
    shard = sorted((store / "shards").iterdir())[1]
    shard.write_bytes(shard.read_bytes()[:-100])


def lost(store: Path) -> None:
    sorted((store / "shards").iterdir())[1].unlink()


def garbled(store: Path) -> None:
    (store / "manifest.json").write_text("{")


def newer(store: Path) -> None:
    manifest = json.loads((store / "manifest.json").read_text())
    (store / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))


def filled(value: float) -> Callable[[Path], None]:
    """Every state of every site is this number."""

    def harm(store: Path) -> None:
        manifest = json.loads((store / "manifest.json").read_text())
        for shard in manifest["shards"]:
            path = store / "shards" / shard["file"]
            content = {name: tensor.clone() for name, tensor in mapped(path).items()}
            for site in manifest["sites"]:
                content[site].fill_(value)
            shard |= write_shard(path, content)
        (store / "manifest.json").write_text(json.dumps(manifest))

    return harm


def first_shard_only(store: Path) -> None:
    """What a kill leaves early on, in contexts of one document."""
    manifest = json.loads((store / "manifest.json").read_text())
    manifest |= {"shards": manifest["shards"][:1], "complete": False}
    shard = manifest["shards"][0]
    path = store / "shards" / shard["file"]
    rows = ActivationStore(store).context_length
    content = {
        name: (value if name.endswith(".sums") else value[:rows]).clone()
        for name, value in mapped(path).items()
    }
    shard |= write_shard(path, content) | {"rows": rows}
    (store / "manifest.json").write_text(json.dumps(manifest))
