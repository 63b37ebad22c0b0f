"""Hidden states of one layer: extraction beside the bare forward pass.

    python benchmarks/extraction.py [--peers PYTHON] [--tokens 16384] [--rounds 3] [--quick]
    python benchmarks/extraction.py --model FOLDER --layer 15 [--tokens 16384] [--rounds 3]

Layer 6 of a GPT-2-small-shaped model, or any layer of a model in a folder of Hugging Face's layout
(a GGUF file's is in the cache): there the bare forward is the library's own, its blocks cut after that
layer and its final norm taken out, and there is no peer.

Random weights, contexts of 128, eight at a time, in turns, each in a process of its own: (1) the bare
truncated forward (embeddings and seven blocks called in a loop, nothing kept), in float32 and
bfloat16; (2) `extract` to a store on disk in the same type, all that `cutaway extract` does after the
text is tokenised; (3) where PYTHON is an interpreter with transformer-lens (a dependency of sae-lens),
its forward with `stop_at_layer=7` and the one hook's states kept in memory. Tokens per second, and
the error that bfloat16 makes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

LENGTH, BATCH = 128, 8
SHAPE = {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024, "vocab_size": 8192}


def make(folder: Path, tokens: int) -> None:
    """A random model in Hugging Face's layout with a tokenizer, and a text to read."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(**SHAPE)).save_pretrained(folder / "model")
    words = {f"w{number}": number for number in range(SHAPE["vocab_size"] - 1)} | {
        "<|endoftext|>": 8191
    }
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.save(str(folder / "model" / "tokenizer.json"))
    drawn = np.random.default_rng(0).integers(0, 8000, 2 * tokens)
    (folder / "text.txt").write_text(" ".join(f"w{number}" for number in drawn))


def write_docstrings(path: Path, characters: int) -> None:
    """So many characters of real text, or more, as one file."""
    from cutaway.text.sources import source

    texts, length = [], 0
    for document in source("docstrings").documents():
        texts.append(document.text)
        length += len(document.text)
        if length >= characters:
            break
    path.write_text("\n\n".join(texts))


def batches(tokens: int, words: int = 8000) -> Any:
    import torch

    generator = torch.Generator().manual_seed(0)
    for _ in range(tokens // (BATCH * LENGTH)):
        yield torch.randint(0, words, (BATCH, LENGTH), generator=generator)


def bare(folder: Path, given: argparse.Namespace) -> float:
    import torch
    from transformers import AutoModel, GPT2LMHeadModel

    if given.model:
        body = AutoModel.from_pretrained(given.model, dtype=getattr(torch, given.dtype)).eval()
        body.layers, body.norm = body.layers[: given.layer + 1], torch.nn.Identity()

        @torch.no_grad()
        def library(ids: Any) -> Any:
            return body(input_ids=ids, use_cache=False).last_hidden_state

        return _timed(library, given)

    dtype = getattr(torch, given.dtype)
    model = GPT2LMHeadModel.from_pretrained(folder / "model", dtype=dtype).transformer.eval()
    positions = torch.arange(LENGTH)[None]

    @torch.no_grad()
    def forward(ids: Any) -> Any:
        x = model.wte(ids) + model.wpe(positions)
        for block in model.h[: given.layer + 1]:
            found = block(x)
            x = found[0] if isinstance(found, tuple) else found
        return x

    return _timed(forward, given)


def ours(folder: Path, given: argparse.Namespace) -> float:
    from cutaway.activations.extraction import extract
    from cutaway.base.display import quiet

    quiet.set(True)
    settings = {
        "model": given.model or str(folder / "model"), "layers": str(given.layer),
        "context_length": LENGTH, "batch_size": BATCH, "dtype": given.dtype,
        "store_dtype": given.dtype, "data": str(folder / "text.txt"), "separator": "none",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as out:  # reads, tokenises and warms up
        extract({**settings, "tokens": 2 * BATCH * LENGTH}, Path(out) / "warm")
        small = time.perf_counter()
        extract({**settings, "tokens": 2 * BATCH * LENGTH}, Path(out) / "small")
        small = time.perf_counter() - small
        extract({**settings, "tokens": given.tokens + 2 * BATCH * LENGTH}, Path(out) / "first")
        began = time.perf_counter()
        extract({**settings, "tokens": given.tokens + 2 * BATCH * LENGTH}, Path(out) / "whole")
        took = time.perf_counter() - began - small  # without opening the model and the text
    return given.tokens / took


def transformer_lens(folder: Path, given: argparse.Namespace) -> float:
    import torch
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=12, d_model=768, n_ctx=1024, d_head=64, n_heads=12, d_mlp=3072, act_fn="gelu_new",
        d_vocab=SHAPE["vocab_size"], normalization_type="LN", dtype=getattr(torch, given.dtype),
        device="cpu",
    )  # fmt: skip
    model = HookedTransformer(config).eval()
    name = f"blocks.{given.layer}.hook_resid_post"
    kept: list[Any] = []

    @torch.no_grad()
    def forward(ids: Any) -> None:
        _, cache = model.run_with_cache(ids, names_filter=[name], stop_at_layer=given.layer + 1)
        kept[:] = [cache[name]]

    return _timed(forward, given)


def _timed(forward: Any, given: argparse.Namespace) -> float:
    each = list(batches(given.tokens, given.words))
    forward(each[0])
    began = time.perf_counter()
    for ids in each:
        forward(ids)
    return len(each) * BATCH * LENGTH / (time.perf_counter() - began)


def error_of_bfloat16(model: Path | str, given: argparse.Namespace) -> float:
    """‖x_bf16 − x‖² / ‖x‖² over a batch's states."""
    import cutaway

    ids = next(batches(BATCH * LENGTH, given.words))
    found = [
        cutaway.capture(cutaway.open_model(model, dtype=dtype), ids, given.layer)
        for dtype in ("float32", "bfloat16")
    ]
    one, other = (next(iter(states.values())).float() for states in found)
    return float((one - other).square().sum() / one.square().sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", help="an interpreter that has transformer-lens")
    parser.add_argument("--model", help="a folder in Hugging Face's layout")
    parser.add_argument("--layer", type=int, default=6)
    parser.add_argument(
        "--words", type=int, default=8000, help="ids of the bare pass are below this"
    )
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="does it run")
    parser.add_argument("--dtype", default="float32", help=argparse.SUPPRESS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        import torch

        torch.set_num_threads(given.threads)
        print(json.dumps(globals()[given.child](given.folder, given)))
        return
    if given.quick:
        given.tokens, given.rounds = 2048, 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if given.model:
            write_docstrings(folder / "text.txt", 6 * given.tokens)
        else:
            make(folder, given.tokens + 4 * BATCH * LENGTH)
        names = ["bare", "ours", *(["transformer_lens"] if given.peers and not given.model else [])]
        found: dict[tuple[str, str], list[float]] = {}
        for _ in range(given.rounds):
            for dtype in ("float32", "bfloat16"):
                for name in names:
                    python = given.peers if name == "transformer_lens" else sys.executable
                    command = [python, __file__, "--child", name, "--folder", str(folder)]
                    command += ["--dtype", dtype, "--tokens", str(given.tokens)]
                    command += ["--threads", str(given.threads), "--layer", str(given.layer)]
                    command += ["--words", str(given.words)]
                    command += ["--model", given.model] if given.model else []
                    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
                    if done.returncode:
                        raise SystemExit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
                    speed = json.loads(done.stdout.strip().splitlines()[-1])
                    found.setdefault((dtype, name), []).append(speed)
        base = max(found["float32", "bare"])
        print(f"{'':28}{'tokens/s':>10}{'of bare':>9}{'of bare float32':>17}")
        for (dtype, name), speeds in found.items():
            best = max(speeds)
            share = best / max(found[dtype, "bare"])
            print(f"{dtype:10}{name:18}{best:10,.0f}{share:9.2f}{best / base:17.2f}")
        print(
            f"bfloat16's error, ‖x − x̂‖² / ‖x‖²: {error_of_bfloat16(given.model or folder / 'model', given):.1e}"
        )


if __name__ == "__main__":
    main()
