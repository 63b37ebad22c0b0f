"""The kernels for a GPU give what dense products give: worked in Triton's interpreter, on any CPU.

Where there is a GPU they are run on it as well. Each place is one run of `triton_cases.py`, as
Triton decides at its import whether it interprets.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from cutaway.sparse import products as sparse

PLACES = ["cpu", "cuda"]
PRODUCTS = ["sum_by_row", "sum_by_feature", "row_sums", "feature_sums", "inner"]
SIZES = ["long", "wide", "block", "thin"]


@cache
def run(place: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ) | {"TRITON_INTERPRET": "1" if place == "cpu" else "0"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    program = [sys.executable, str(Path(__file__).with_name("triton_cases.py")), place]
    return subprocess.run(program, env=environment, capture_output=True, text=True)


def cases(place: str) -> dict[str, float]:
    """How far each case is off, of one run for all tests."""
    if find_spec("triton") is None:
        pytest.skip("Triton is not installed (it comes with torch for CUDA)")
    if place == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU that torch sees")
    done = run(place)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told["used"], "torch's kernels were at work, not Triton's"
    return told["cases"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("place", PLACES)
def test_products_are_those_of_the_dense_matrix(place: str, product: str, size: str):
    """With rows and features that have no entry, and with sums that go over many programs."""
    assert cases(place)[f"{product} {size} float32"] < 1e-6


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("place", PLACES)
def test_sums_of_bfloat16_are_rounded_once(place: str, product: str):
    """bfloat16 has 8 bits; the interpreter cuts off where a GPU rounds. Products are not rounded."""
    allowed = 1e-6 if product == "inner" else 2**-7
    assert cases(place)[f"{product} wide bfloat16"] < allowed


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("place", PLACES)
def test_the_same_sum_has_the_same_bits_each_time(place: str, product: str):
    assert cases(place)[f"{product} again"] == 0


@pytest.mark.parametrize("place", PLACES)
def test_a_batch_on_which_nothing_is_active_sums_up_to_zero(place: str):
    assert cases(place)["no entries"] == 0


@pytest.mark.parametrize("parameter", ["centre", "encoder", "bias", "decoder"])
@pytest.mark.parametrize("place", PLACES)
def test_gradients_are_those_of_the_dense_way(place: str, parameter: str):
    assert cases(place)[f"gradient of {parameter}"] < 1e-5


@pytest.mark.parametrize("function", ["encoder", "decoder", "a parameter", "a row sum"])
@pytest.mark.parametrize("place", PLACES)
def test_gradients_are_those_of_small_differences(place: str, function: str):
    assert cases(place)[f"{function}'s differences"] == 0


@pytest.mark.parametrize("kernel", ["_sum_up_to_cuts", "_add_parts", "_inner", "_sum_values"])
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_for_gpus_and_add_nothing_by_atomics(kernel: str, capability: int):
    """What the interpreter takes is not always what the compiler does."""
    assert cases("compile")[f"{kernel} {capability}"] is True


def test_a_cpu_is_not_sent_to_triton():
    assert sparse.triton_for(torch.device("cpu")) is None


def test_where_the_kernels_fail_their_check_others_are_used(monkeypatch):
    """As with a module that is there and cannot work: no compiler, an old driver."""

    class Broken:
        @staticmethod
        def check(device: torch.device) -> None:
            raise RuntimeError("no C compiler found")

    name = "cutaway.sparse.triton_sums"
    monkeypatch.setitem(sys.modules, name, Broken)
    monkeypatch.setattr("cutaway.sparse.triton_sums", Broken, raising=False)
    sparse.triton_for.cache_clear()
    with pytest.warns(UserWarning, match="no C compiler found"):
        assert sparse.triton_for(torch.device("cuda")) is None
    sparse.triton_for.cache_clear()
