"""Law: any one argument of a public function replaced by junk is refused in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cutaway.base.errors import CutawayError

JUNK = {
    "None": None,
    "a negative number": -7,
    "a huge number": 10**30,
    "a fraction": 1.5,
    "NaN": float("nan"),
    "empty text": "",
    "text": "nothing of this name",
    "not UTF-8": "\udcff",
    "a NUL": "a\0b",
    "bytes": b"bytes",
    "an empty list": [],
    "a list of None": [None],
    "a list of text": ["x"],
    "a mapping": {1: 2},
    "an object": object(),
    "True": True,
    "an array": np.array([1, 2]),
    "an array of text": np.array(["a"]),
    "an empty array": np.zeros((0, 3)),
    "an empty tensor": torch.zeros(0),
    "a tensor": torch.zeros(2, 3),
    "complex numbers": torch.zeros(1, 4, dtype=torch.complex64),
    "truths": torch.zeros(1, 4, dtype=torch.bool),
    "ids too large": torch.full((1, 4), 10**6),
    "ids below zero": torch.full((4,), -1),
}


@pytest.fixture(scope="module")
def doors(backpack_run, activations, dictionary_run, probe_run) -> dict[str, tuple[Callable, dict]]:
    """Functions, and arguments by name that they take."""
    import cutaway
    from cutaway import activations as rooms
    from cutaway import grokking, language, nets, runs, studies, text
    from cutaway.probes.view.reading import open_probes

    model, store = cutaway.open_model(str(backpack_run)), rooms.ActivationStore(activations)
    network, dictionary = nets.load(backpack_run).model, cutaway.Dictionary.load(dictionary_run)
    dictionary = dictionary[0] if isinstance(dictionary, tuple) else dictionary
    probe, run = open_probes(probe_run)[0], runs.Run.open(backpack_run)
    tokenizer, states = (
        text.Tokenizer.load(backpack_run / "tokenizer"),
        store.read("residual.0", 0, 9),
    )
    ids = torch.arange(6)
    return {
        "open_model": (cutaway.open_model, {"model": str(backpack_run), "device": "cpu"}),
        "nets.load": (nets.load, {"run": backpack_run, "step": "best", "device": "cpu"}),
        "capture": (cutaway.capture, {"model": model, "tokens": ids[None], "sites": ["0"]}),
        "store.read": (store.read, {"site": "residual.0", "start": 0, "stop": 5}),
        "store.tokens": (store.tokens, {"start": 0, "stop": 5}),
        "store.mean": (store.mean, {"site": "residual.0", "positions": "rest"}),
        "ActivationStream": (
            rooms.ActivationStream,
            {"store": store, "site": "0", "batch_size": 64, "block": 8, "window": 64},
        ),
        "encode": (dictionary.encode, {"x": states}),
        "decode": (dictionary.decode, {"features": dictionary.encode(states)}),
        "forward": (dictionary.forward, {"x": states}),
        "logits": (probe.logits, {"hidden": states}),
        "RunStore.run": (runs.RunStore(backpack_run.parent).run, {"name": backpack_run.name}),
        "Run.read": (run.read, {"table": "history"}),
        "compare": (runs.compare, {"runs": [run, run]}),
        "encode text": (tokenizer.encode, {"text": "the cat"}),
        "encode texts": (tokenizer.encode_batch, {"texts": ["the cat"]}),
        "decode ids": (tokenizer.decode, {"ids": [1, 2]}),
        "token": (tokenizer.token, {"id": 3}),
        "sample": (
            language.sample,
            {"model": network, "tokens": ids[None], "length": 2, "temperature": 1.0, "seed": 0},
        ),
        "used": (language.used, {"model": network, "windows": ids[None], "batch_size": 4}),
        "predicts": (language.predicts, {"model": network, "token": 3, "top": 2}),
        "evoked_by": (language.evoked_by, {"model": network, "target": 3, "top": 2}),
        "attribute": (
            language.attribute,
            {"model": network, "tokens": ids, "target": 3, "position": -1},
        ),
        "split": (
            grokking.split,
            {"p": 7, "operation": "addition", "train_frac": 0.5, "data_seed": 0},
        ),
        "parse_site": (nets.parse_site, {"site": "residual.0", "n_layers": 2}),
        "parse_sites": (lambda sites: nets.parse_sites(sites, 2), {"sites": "all"}),
        "find_preset": (studies.find_preset, {"name": "routed", "sweep": False}),
        "resolve": (
            studies.resolve,
            {"model": studies.config_of("grokking"), "file": {}, "over": {}},
        ),
        "starts": (text.starts, {"n_tokens": 99, "block_size": 4, "count": 2, "seed": 0, "step": 0}),
    }  # fmt: skip


def test_any_argument_may_be_junk(doors, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    escaped = []
    for door, (function, good) in doors.items():
        function(**good)
        for name in good:
            for what, junk in JUNK.items():
                try:
                    function(**{**good, name: junk})
                except (CutawayError, TypeError):
                    continue
                except IndexError as error:  # of what is counted: rows of a store, a token's id
                    if not str(error).startswith(("rows ", "token ")):
                        escaped.append(_told(door, name, what, error))
                except Exception as error:
                    escaped.append(_told(door, name, what, error))
    assert not escaped, "\n".join(escaped)


def _told(door: str, name: str, what: str, error: Any) -> str:
    return f"{door}({name}={what}): {type(error).__name__}: {str(error)[:150]}"
