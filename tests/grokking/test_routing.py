from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cutaway.base.errors import UserError
from cutaway.grokking.data import all_pairs
from cutaway.grokking.instruments import Routing, RoutingTable
from cutaway.grokking.routing import REGULARIZERS, regularizer, routing_measures
from cutaway.nets.architectures import build
from cutaway.nets.stacked import stack

N = 4


def weights(rows) -> torch.Tensor:
    """Gate weights (rows, 1 layer, heads)."""
    return torch.tensor(rows, dtype=torch.float64).unsqueeze(1)


UNDECIDED = weights([[0.25] * N] * 8)  # every input takes all heads alike
SAME = weights([[1, 0, 0, 0]] * 8)  # every input takes head 0
OWN = weights(np.eye(N).repeat(2, 0))  # every input takes one head, all heads equally often


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # entropy, of mean, information, gini, utilisation, effective heads
        (UNDECIDED, (1, 1, 0, 0, 1 / N, N)),  # of equal weights the first counts as dominant
        (SAME, (0, 0, 0, 3 / 4, 1 / N, 1)),
        (OWN, (0, 1, 1, 3 / 4, 1, N)),
        (weights([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]), (0.5, 1, 0.5, 0.5, 0.5, N)),
    ],
)
def test_measures_closed_forms(given, expected):
    found = routing_measures(given)
    names = ("entropy", "entropy_of_mean", "information", "gini", "utilisation", "effective_heads")
    assert set(found) == {f"routing_{name}" for name in names}
    for name, value in zip(names, expected, strict=True):
        assert found[f"routing_{name}"].item() == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # entropy, sparsity, gini, consistency
        (UNDECIDED, (1, 3 / 4, 1, 0)),
        (SAME, (0, 0, 1 / N, 0)),
        (OWN, (0, 0, 1 / N, 1 - 1 / N)),
        (weights([[0.7, 0.3, 0, 0], [0.3, 0.7, 0, 0]]), (0.4406455, 0.3, 0.4, 0.08)),
    ],
)
def test_penalties_closed_forms(given, expected):
    for name, value in zip(("entropy", "sparsity", "gini", "consistency"), expected, strict=True):
        assert regularizer(name, given).item() == pytest.approx(value, abs=1e-6), name


def test_information_is_the_mutual_information_of_input_and_head():
    given = torch.rand(50, 2, N, generator=torch.Generator().manual_seed(0)).double()
    given = given / given.sum(-1, keepdim=True)
    joint = given[:, 0] / 50  # P(input, head) with inputs equally likely
    of_head = joint.sum(0, keepdim=True)
    mutual = (joint * (joint * 50 / of_head).log()).sum() / math.log(N)
    found = routing_measures(given[:, :1])["routing_information"]
    assert found.item() == pytest.approx(mutual.item())


@pytest.mark.parametrize("name", list(REGULARIZERS))
def test_penalties_have_the_right_gradient_and_stay_finite_at_zero_weights(name):
    logits = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(1)).double()
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: regularizer(name, x.softmax(-1)), logits)
    extreme = torch.tensor([[[2000.0, 0.0, -2000.0]], [[0.0, 2000.0, 0.0]]], requires_grad=True)
    regularizer(name, extreme.softmax(-1)).backward()
    assert torch.isfinite(extreme.grad).all()


def test_layers_are_averaged_and_members_kept_apart():
    layered = torch.cat([OWN, UNDECIDED], 1)
    members = torch.stack([layered, torch.cat([SAME, SAME], 1)])
    for name, penalty in REGULARIZERS.items():
        mean = (penalty(OWN) + penalty(UNDECIDED)) / 2
        expected = torch.stack([mean, penalty(SAME)])
        torch.testing.assert_close(penalty(members), expected, msg=name)
    found = routing_measures(members)
    assert found["routing_entropy"].tolist() == pytest.approx([0.5, 0])
    assert found["routing_utilisation"].tolist() == pytest.approx([(1 + 1 / N) / 2, 1 / N])


def test_one_head_is_always_decided():
    found = routing_measures(torch.ones(5, 2, 1))
    assert found["routing_entropy"].item() == 0
    assert found["routing_information"].item() == 0
    assert found["routing_effective_heads"].item() == 1


def test_an_unknown_regulariser_is_refused_by_name():
    with pytest.raises(UserError, match=r"routing_regularizer = 'entrpy'.*entropy, sparsity"):
        regularizer("entrpy", UNDECIDED)


def _task(members: int, p: int = 5):
    shape = {"name": "modular_routed", "p": p, "hidden_dim": 8, "n_layers": 2, "n_heads": 3}
    networks = [build({**shape, "gate_dim": 4}, seed) for seed in range(members)]
    for network in networks:
        network.embedding.data.mul_(30)  # so that pairs differ in their heads
    model = networks[0] if members == 1 else stack(networks)
    grid = all_pairs(p) if members == 1 else all_pairs(p).expand(members, -1, -1)
    config = SimpleNamespace(p=p)
    task = SimpleNamespace(model=model, grid=grid, members=members, config=config)
    return SimpleNamespace(task=task, step=40), networks


def test_instruments_read_the_gates_of_all_pairs():
    at, (network,) = _task(1)
    pairs = all_pairs(5)
    expected = network.forward_with_routing(pairs)[1].detach()
    table = RoutingTable(100).read(at)
    assert table.column_names == [
        *("step", "a", "b", "layer", "dominant", "weight_0", "weight_1", "weight_2")
    ]
    assert table.num_rows == 25 * 2
    for row in table.to_pylist():
        gate = expected[row["a"] * 5 + row["b"], row["layer"]]
        assert [row[f"weight_{head}"] for head in range(3)] == pytest.approx(gate.tolist())
        assert row["dominant"] == gate.argmax().item()
        assert row["step"] == 40
    assert len(set(table["dominant"].to_pylist())) > 1
    measures = Routing(100).read(at)
    torch.testing.assert_close(measures, routing_measures(expected))
    assert not measures["routing_gini"].requires_grad


def test_a_stack_leaves_a_table_and_a_value_for_each_member():
    at, networks = _task(3)
    tables, measures = RoutingTable(100).read(at), Routing(100).read(at)
    assert len(tables) == 3
    for member, network in enumerate(networks):
        alone = network.forward_with_routing(all_pairs(5))[1].detach()
        assert measures["routing_gini"][member].item() == pytest.approx(
            routing_measures(alone)["routing_gini"].item(), rel=1e-5
        )
        found = np.stack([tables[member][f"weight_{head}"].to_numpy() for head in range(3)], -1)
        np.testing.assert_allclose(found, alone.flatten(0, 1).numpy(), rtol=1e-4, atol=1e-6)
