"""Run as a program: how far the Triton kernels are from dense float64 products, as JSON by case.

`python triton_cases.py cpu` under TRITON_INTERPRET=1, which Triton must see before it is imported,
works in Triton's interpreter; `python triton_cases.py cuda` on a GPU. `python triton_cases.py
compile` only compiles for GPUs that need not be there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import gradcheck

from cutaway.sparse import products as sparse
from cutaway.sparse import triton_sums
from cutaway.sparse.codes import encode
from cutaway.sparse.pattern import Pattern, above

# Tokens, features, width. Pieces are made small, so that small sums go over many of them: in `long`
# those of a feature active on every token, in `wide` those of a token with every feature.
PIECE = 32
SIZES = {"long": (110, 8, 37), "wide": (10, 75, 130), "block": (40, 20, 128), "thin": (9, 5, 1)}


class Problem:
    """Codes in which row 2 and feature 4 have no entry, row 1 and feature 3 all others."""

    def __init__(self, size: str, dtype: torch.dtype, device: str):
        tokens, features, width = SIZES[size]
        generator = torch.Generator().manual_seed(tokens)
        chosen = torch.rand(tokens, features, generator=generator) < 0.1
        chosen[1], chosen[:, 3] = True, True
        chosen[2], chosen[:, 4] = False, False
        self.pattern = Pattern(chosen.view(-1).nonzero().view(-1).to(device), (tokens, features))

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(device, dtype)

        self.values = normal(len(self.pattern))
        self.states, self.weight = normal(tokens, width), normal(features, width)
        codes = torch.zeros(tokens * features, dtype=torch.float64, device=device)
        codes = codes.index_put((self.pattern.flat,), self.values.double())
        self.codes = codes.view(tokens, features)

    def results(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Found and expected of every product."""
        values, pattern = self.values, self.pattern
        states, weight = self.states.double(), self.weight.double()
        return {
            "sum_by_row": (sparse.sum_by_row(values, self.weight, pattern), self.codes @ weight),
            "sum_by_feature": (
                sparse.sum_by_feature(values, self.states, pattern),
                self.codes.T @ states,
            ),
            "row_sums": (sparse.row_sums(values, pattern), self.codes.sum(1)),
            "feature_sums": (sparse.feature_sums(values, pattern), self.codes.sum(0)),
            "inner": (
                sparse.inner(self.states, self.weight, pattern),
                (states @ weight.T).view(-1)[pattern.flat],
            ),
        }


def off(found: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the largest expected; infinite where shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    return float((found.double() - expected).abs().max() / expected.abs().max())


def products(device: str) -> dict[str, float]:
    return {
        f"{name} {size} {str(dtype).removeprefix('torch.')}": off(*pair)
        for size, dtype in [*((size, torch.float32) for size in SIZES), ("wide", torch.bfloat16)]
        for name, pair in Problem(size, dtype, device).results().items()
    }


def repeats(device: str) -> dict[str, float]:
    """0 where a second time gives the same bits."""
    once, again = (Problem("block", torch.float32, device).results() for _ in range(2))
    return {f"{name} again": float(not torch.equal(once[name][0], again[name][0])) for name in once}


def nothing(device: str) -> dict[str, float]:
    """Largest entry of what no entries sum up to; no tokens give no rows."""
    weight, states = torch.ones(5, 3, device=device), torch.ones(4, 3, device=device)
    none = torch.zeros(0, device=device)
    pattern = Pattern(none.long(), (4, 5))
    rows = sparse.sum_by_row(none, weight, pattern)
    features = sparse.sum_by_feature(none, states, pattern)
    sums = sparse.feature_sums(none, pattern)
    inner = sparse.inner(states, weight, pattern)
    empty = sparse.sum_by_row(none, weight, Pattern(none.long(), (0, 5)))
    shapes = [one.shape for one in (rows, features, sums, inner, empty)]
    right = shapes == [(4, 3), (5, 3), (5,), (0,), (0, 3)]
    largest = max(float(one.abs().max()) for one in (rows, features, sums))
    return {"no entries": largest if right else float("inf")}


def gradients(device: str) -> dict[str, float]:
    """Gradients of a small autoencoder, the sparse way in float32 and the dense one in float64."""
    generator = torch.Generator().manual_seed(5)
    sizes = [(40, 20), (20,), (30, 20), (30,), (30, 20)]
    x, *given = (torch.randn(*size, generator=generator).to(device) for size in sizes)
    limit = 5.0  # about one in eight pre-activations is above it

    def thin(x: Tensor, centre: Tensor, weight: Tensor, bias: Tensor, rows: Tensor) -> Tensor:
        codes = encode(x, centre, weight, bias, above(limit), dense=False)
        return codes.of(codes.values.square()).decode(rows)

    def full(x: Tensor, centre: Tensor, weight: Tensor, bias: Tensor, rows: Tensor) -> Tensor:
        z = (x - centre) @ weight.T + bias
        return (z * (z > limit)).square() @ rows

    def worked(way: Callable[..., Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
        inputs = [one.to(dtype, copy=True).requires_grad_() for one in given]
        data = x.to(dtype)
        return torch.autograd.grad((way(data, *inputs) - data).square().mean(), inputs)

    pairs = zip(worked(thin, torch.float32), worked(full, torch.float64))
    names = ("centre", "encoder", "bias", "decoder")
    return {f"gradient of {name}": off(*pair) for name, pair in zip(names, pairs)}


def numeric_gradients(device: str) -> dict[str, float]:
    """0 where autograd's gradients are those of small differences, in float64."""
    pattern = Pattern(torch.tensor([0, 2, 3, 5, 9, 11], device=device), (4, 3))
    double = {"dtype": torch.float64, "device": device}
    values, weight = torch.randn(6, **double), torch.randn(3, 5, **double)
    states, bias = torch.randn(4, 5, **double), torch.randn(3, **double)

    def encoder(weight: Tensor, bias: Tensor) -> Tensor:
        known = (states @ weight.T + bias).view(-1)[pattern.flat].detach()
        return sparse.SparseLinear.apply(states, None, weight, bias, known, pattern)

    def decoder(values: Tensor, weight: Tensor) -> Tensor:
        return sparse.SparseDecode.apply(values, weight, pattern)

    def passes(function, *given: Tensor) -> float:
        return float(
            not gradcheck(function, [one.requires_grad_() for one in given], raise_exception=False)
        )

    return {
        "encoder's differences": passes(encoder, weight, bias),
        "decoder's differences": passes(decoder, values, weight),
        "a parameter's differences": passes(lambda p: sparse.PerFeature.apply(p, pattern), bias),
        "a row sum's differences": passes(lambda v: sparse.PerRow.apply(v, pattern), values),
    }


def compiled() -> dict[str, bool]:
    """Whether each kernel compiles for an A100 and an H100, and does so without atomics."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    index = "*i64"
    sums = {"values": "*fp32", "places": index, "offsets": index, "owners": index, "width": "i32"}
    blocks = {"PIECE": PIECE, "TILE": 16, "WIDE": 128}
    kernels = {
        "_sum_up_to_cuts": (
            sums | {"table": "*bf16", "sums": "*bf16", "parts": "*fp32", "pieces": "i32"},
            blocks,
        ),
        "_add_parts": (sums | {"sums": "*bf16", "parts": "*fp32"}, blocks),
        "_inner": (
            {"states": "*fp32", "weight": "*fp32", "rows": index, "features": index}
            | {"products": "*fp32", "entries": "i32", "width": "i32"},
            {"TILE": 16, "WIDE": 128},
        ),
        "_sum_values": ({"values": "*fp32", "offsets": index, "sums": "*fp32"}, {"LONG": 256}),
    }
    found = {}
    for name, (types, sizes) in kernels.items():
        kernel = getattr(triton_sums, name)
        constants = sizes | {"EXACT": triton.language.float32}
        types = {a: types.get(a, "constexpr") for a in kernel.arg_names}
        source = ASTSource(fn=kernel, signature=types, constexprs=constants)
        for capability in (80, 90):
            made = triton.compile(source, target=GPUTarget("cuda", capability, 32))
            found[f"{name} {capability}"] = "cubin" in made.asm and "atom." not in made.asm["ptx"]
    return found


def main(device: str) -> None:
    if device == "compile":
        print(json.dumps({"used": True, "cases": compiled()}))
        return
    torch.manual_seed(0)
    triton_sums.check(torch.device(device))
    if device == "cpu":  # the interpreter works CPU tensors, which else torch's kernels do
        sparse.triton_for = lambda _: triton_sums
    triton_sums.PIECE = PIECE
    found: dict[str, float] = {}
    for cases in (products, repeats, nothing, gradients, numeric_gradients):
        found |= cases(device)
    used = sparse.triton_for(torch.device(device)) is triton_sums
    print(json.dumps({"used": used, "cases": found}))


if __name__ == "__main__":
    main(sys.argv[1])
