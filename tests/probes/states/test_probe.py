"""A probe is its formula, and its files carry all of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cutaway.base.errors import UserError
from cutaway.nets.model import ModelReference
from cutaway.probes.states.probe import FORMAT, Probe, ProbeAbout

REFERENCE = ModelReference("huggingface", "gpt2", "abc", None, "0" * 64, "1" * 64, 12, 768)


def about(**over: object) -> ProbeAbout:
    known = {
        "site": "residual.3",
        "method": "exact",
        "task": "next",
        "classes": ("other", " the"),
        "prior": (0.96, 0.04),
        "trained_prior": (0.5, 0.5),
        "target": " the",
        "target_id": 262,
        "strength": 0.1,
        "context_length": 128,
        "scores": {"balanced_accuracy": 0.9, "low": None},
        "data": {"name": "docstrings", "sha256": "2" * 64},
    }
    return ProbeAbout(REFERENCE, **{**known, **over})


def binary(**over: object) -> Probe:
    """z = 2·((x₀ − 1)·0.5 + x₁·(−1)) + 0.25"""
    return Probe(
        about(**over),
        weight=torch.tensor([[0.5, -1.0]]),
        bias=torch.tensor([0.25]),
        mean=torch.tensor([1.0, 0.0]),
        scale=torch.tensor(2.0),
    )


X = torch.tensor([2.0, 1.0])  # z = 2·(0.5 − 1) + 0.25 = −0.75


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def test_a_logit_is_the_formula_s() -> None:
    assert binary().logits(X).tolist() == pytest.approx([0.0, -0.75])


def test_natural_shares_are_put_in_and_those_of_training_taken_out() -> None:
    # balanced training: logit π alone is added
    assert float(binary()(X)) == pytest.approx(sigmoid(-0.75 + math.log(0.04 / 0.96)))
    # three of four were positive there: logit π_train comes off first
    tilted = binary(trained_prior=(0.25, 0.75))
    assert tilted.even(X).exp().tolist()[1] == pytest.approx(sigmoid(-0.75 - math.log(3)))
    assert float(tilted(X)) == pytest.approx(sigmoid(-0.75 - math.log(3) + math.log(0.04 / 0.96)))
    # shares seen and natural ones alike: the logit is left as it is
    assert float(binary(trained_prior=(0.96, 0.04))(X)) == pytest.approx(sigmoid(-0.75))


def test_even_odds_decide_where_the_logit_is_that_of_training_s_shares() -> None:
    tilted = binary(trained_prior=(0.25, 0.75))
    # along x₁ the logit falls by 2: z = 1.25 − 2x₁, and log 3 is where even odds are
    level = (1.25 - math.log(3)) / 2
    above, below = (torch.tensor([2.0, level + shift]) for shift in (-1e-3, 1e-3))
    assert tilted.even(above).argmax() == 1
    assert tilted.even(below).argmax() == 0


def test_any_leading_axes_give_a_probability_each() -> None:
    states = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    p = binary()(states)
    assert p.shape == (4, 3)
    assert float(p[2, 1]) == pytest.approx(float(binary()(states[2, 1])))


def test_bfloat16_states_are_worked_in_float32() -> None:
    states = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)).bfloat16()
    p = binary()(states)
    assert p.dtype == torch.float32
    torch.testing.assert_close(p, binary()(states.float()))


def test_an_mlp_has_a_gelu_between_two_maps() -> None:
    probe = Probe(
        about(prior=(0.5, 0.5), method="mlp"),
        weight=torch.tensor([[1.0, -2.0]]),
        bias=torch.tensor([0.5]),
        mean=torch.tensor([1.0, 0.0]),
        scale=torch.tensor(2.0),
        hidden_weight=torch.tensor([[1.0, 0.0], [0.0, -1.0]]),
        hidden_bias=torch.tensor([0.0, 0.5]),
    )

    def gelu(x: float) -> float:
        return x * (1 + math.erf(x / math.sqrt(2))) / 2

    z = gelu(2.0) - 2 * gelu(-2.0 + 0.5) + 0.5  # normalised, X is (2, 2)
    assert float(probe(X)) == pytest.approx(sigmoid(z))
    with pytest.raises(UserError, match="only a linear probe of two classes has one direction"):
        _ = probe.direction


def several(**over: object) -> Probe:
    three = {"classes": ("a", "b", "c"), "prior": (0.2, 0.3, 0.5), "trained_prior": (0.6, 0.2, 0.2)}
    return Probe(
        about(task="labels", target=None, target_id=None, **{**three, **over}),
        weight=torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.5]]),
        bias=torch.tensor([0.1, 0.2, 0.3]),
        mean=torch.zeros(2),
        scale=torch.tensor(1.0),
    )


def test_several_classes_have_a_probability_each() -> None:
    z = [2.1, 1.2, -1.2]
    raw = [
        math.exp(one) / seen * share
        for one, seen, share in zip(z, (0.6, 0.2, 0.2), (0.2, 0.3, 0.5), strict=True)
    ]
    p = several()(X)
    assert p.tolist() == pytest.approx([one / sum(raw) for one in raw], rel=1e-5)
    with pytest.raises(UserError, match="one direction"):
        _ = several().direction


def test_the_direction_is_the_unit_vector_along_which_the_logit_rises() -> None:
    direction = binary().direction
    assert float(direction.norm()) == pytest.approx(1)
    rise = binary().logits(X + direction)[1] - binary().logits(X)[1]
    assert float(rise) == pytest.approx(2 * math.hypot(0.5, 1))


def test_states_of_another_width_are_refused() -> None:
    with pytest.raises(UserError, match=r"states 3 wide, and the probe of residual\.3 reads 2"):
        binary()(torch.zeros(5, 3))


# -- on disk ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["binary", "several", "mlp"])
def test_what_is_saved_is_loaded_from_any_of_its_paths(kind: str, tmp_path: Path) -> None:
    probe = several() if kind == "several" else binary()
    if kind == "mlp":
        hidden = {"hidden_weight": torch.randn(2, 2), "hidden_bias": torch.randn(2)}
        probe = replace(probe, **hidden)
    folder = probe.save(tmp_path / "probe")
    for path in (folder, folder / "probe.json", folder / "probe.safetensors"):
        kept = Probe.load(path)
        assert kept.about == probe.about
        assert torch.equal(kept(X), probe(X))
    assert kept.site.layer == 3
    assert kept.about.reference == REFERENCE


def test_an_older_reader_s_unknown_fields_are_passed_over(tmp_path: Path) -> None:
    folder = binary().save(tmp_path)
    content = json.loads((folder / "probe.json").read_text())
    (folder / "probe.json").write_text(json.dumps({**content, "colour": "red"}))
    assert Probe.load(folder).about == about()


def changed(folder: Path, **values: object) -> None:
    content = json.loads((folder / "probe.json").read_text()) | values
    (folder / "probe.json").write_text(
        json.dumps({key: value for key, value in content.items() if value is not ...})
    )


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder: (folder / "probe.json").unlink(), "no probe there"),
        (lambda folder: (folder / "probe.json").write_text("{"), "damaged probe"),
        (lambda folder: (folder / "probe.json").write_text("[1]"), "probe: not one"),
        (lambda folder: (folder / "probe.safetensors").unlink(), "damaged probe"),
        (lambda folder: binary_with_other_weights(folder), "damaged: probe.safetensors is not"),
        (lambda folder: changed(folder, classes=...), "probe: not one"),
        (lambda folder: changed(folder, prior=None), "probe: not one"),
        (lambda folder: changed(folder, reference={"format": 1}), "model reference: not one"),
        (lambda folder: changed(folder, weights_sha256=...), "damaged"),
        (
            lambda folder: changed(folder, format=FORMAT + 1),
            rf"format {FORMAT + 1} is newer than this cutaway reads \({FORMAT}\)",
        ),
    ],
)
def test_damaged_and_newer_files_are_refused(tmp_path: Path, harm, said: str) -> None:
    folder = binary().save(tmp_path)
    harm(folder)
    with pytest.raises(UserError, match=said):
        Probe.load(folder)


def binary_with_other_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "probe.safetensors")
    save_file({**tensors, "bias": tensors["bias"] + 1}, folder / "probe.safetensors")


def test_a_probe_prints_as_one_line() -> None:
    said = "Probe(residual.3 of gpt2: next token ' the', exact, balanced accuracy 0.900)"
    assert repr(binary()) == said
    of_labels = binary(task="labels", target=None, classes=("O", "PER"), scores={})
    assert repr(of_labels) == "Probe(residual.3 of gpt2: PER or O, exact)"


def test_a_run_and_a_folder_of_probes_name_theirs(tmp_path: Path) -> None:
    for site in ("residual.0", "residual.10", "residual.2"):
        binary(site=site).save(tmp_path / "probes" / site)
    with pytest.raises(UserError) as error:
        Probe.load(tmp_path)
    names = "probes/residual.0, probes/residual.2, probes/residual.10"
    assert str(error.value).endswith(f"; its probes are {names}")
    with pytest.raises(
        UserError, match=r"; its probes are residual\.0, residual\.2, residual\.10$"
    ):
        Probe.load(tmp_path / "probes")
    with pytest.raises(UserError, match=r"is missing\)$"):
        Probe.load(tmp_path / "probes" / "nothing")
