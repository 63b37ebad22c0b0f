"""Sums of scores on a device that has no float64, as Metal: it is told what it is asked for."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cutaway.base import hardware
from cutaway.dictionaries.architectures.registry import build
from cutaway.dictionaries.model.dictionary import DictionaryShape
from cutaway.dictionaries.model.reconstruction import Reconstruction
from cutaway.evaluations.baselines import PCA, Learned
from cutaway.sparse.codes import DenseCodes


class Metal(TorchDispatchMode):
    """Refuses every result that Metal cannot hold."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            if isinstance(one, torch.Tensor) and one.device.type == "mps":
                assert one.dtype != torch.float64, function
        return result


@pytest.fixture
def metal():
    """Tensors that have a device and no values, so that a Mac is not needed."""
    with FakeTensorMode(), Metal():
        yield torch.device("mps", 0)


def test_such_a_device_is_known_when_it_is_asked_too_much(metal) -> None:
    with pytest.raises(AssertionError):
        torch.ones(3, device=metal).double()


def test_scores_are_summed_in_float64_without_asking_the_device_for_it(metal) -> None:
    x = torch.randn(8, 6, device=metal)
    score = Reconstruction(6, 10)
    score.add(x, x + 1, DenseCodes(torch.randn(8, 10, device=metal)))
    assert {one.dtype for one in (score._sums, score._total, score.fired)} == {torch.float64}


def test_principal_components_are_fitted_on_the_cpu_and_kept_on_the_device(metal) -> None:
    pca = PCA(torch.randn(50, 6, device=metal), 2)
    reconstruction, _ = pca(torch.randn(4, 6, device=metal))
    assert (reconstruction.shape, reconstruction.device) == ((4, 6), metal)


def test_widened_numbers_are_the_same_on_a_device_that_has_float64() -> None:
    x = torch.randn(5)
    wide = hardware.widened(x)
    assert (wide.dtype, wide.device) == (torch.float64, x.device)
    assert torch.equal(wide.float(), x)


def test_a_judged_dictionary_keeps_nothing_for_gradients() -> None:
    dictionary = build(DictionaryShape("topk", 6, 10, k=2), 0)
    reconstruction, codes = Learned(dictionary)(torch.randn(8, 6))
    assert not reconstruction.requires_grad
    assert not codes.values.requires_grad
