"""What a model can be asked is found by asking it, whatever its class and configuration say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from activations.tiny_models import CAUSAL, ENCODERS, LAYOUTS, save_model, small_tokenizer
from cutaway.base.errors import UserError
from cutaway.nets.check import tell
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model
from cutaway.nets.sites import Site, residual
from cutaway.nets.untrained import untrained

WITHOUT_HEAD = {
    "gpt2": "GPT2Model", "llama": "LlamaModel", "bert": "BertModel", "roberta": "RobertaModel",
    "distilbert": "DistilBertModel",
}  # fmt: skip


def headless(layout: str, folder: Path, tokenizer: Any = None) -> Path:
    """A model of a layout saved without its vocabulary head, as sentence encoders are."""
    import transformers

    save_model(layout, folder / "whole", tokenizer=tokenizer)
    name = WITHOUT_HEAD[layout]
    module = getattr(transformers, name).from_pretrained(folder / "whole")
    module.save_pretrained(folder / "bare")
    if tokenizer is not None:
        tokenizer.save(folder / "bare")
    return folder / "bare"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_whether_a_position_sees_later_ones(
    tiny_folder: Callable[[str], Path], layout: str, dtype: str
) -> None:
    found = open_model(tiny_folder(layout), device="cpu", dtype=dtype).abilities
    assert found.causal == (layout in CAUSAL)
    assert found.head
    assert found.predicts == (layout in CAUSAL)
    assert (found.why_not is None) == (layout in CAUSAL)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_encoder_of_small_fresh_weights_is_told_from_a_causal_model(
    tiny_folder: Callable[[str], Path], layout: str
) -> None:
    """Weights as an initialiser draws them, with which tokens hardly move each other."""
    folder = tiny_folder(layout)
    fresh = untrained(open_model(folder, device="cpu"), folder, seed=3)
    del fresh.__dict__["abilities"]  # else the trained model's
    assert fresh.abilities.causal == (layout in CAUSAL)


def test_a_class_that_says_it_is_causal_and_looks_ahead_is_found_out(
    tiny_folder: Callable[[str], Path],
) -> None:
    model = open_model(tiny_folder("llama"), device="cpu")

    def ahead(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return output + 0.01 * output.mean(1, keepdim=True)

    model.module.model.layers[0].mlp.register_forward_hook(ahead)
    assert not model.abilities.causal


@pytest.mark.parametrize("layout", WITHOUT_HEAD)
def test_a_model_without_a_head_is_known_before_it_is_asked(layout: str, tmp_path: Path) -> None:
    found = open_model(headless(layout, tmp_path), device="cpu").abilities
    assert not found.head
    assert found.causal == (layout in CAUSAL)
    assert "saved without a vocabulary head" in str(found.why_not)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_whether_the_parts_of_a_block_add_up(
    tiny_folder: Callable[[str], Path], layout: str
) -> None:
    expected = layout not in ENCODERS or layout == "modernbert"  # which has norms before its parts
    assert open_model(tiny_folder(layout), device="cpu").abilities.adds_up == expected


def test_a_block_that_scales_what_it_adds_does_not_add_up(
    tiny_folder: Callable[[str], Path],
) -> None:
    model = open_model(tiny_folder("llama"), device="cpu")
    model.module.model.layers[1].register_forward_hook(
        lambda module, args, output: output[0] * 1.5 if isinstance(output, tuple) else output * 1.5
    )
    assert model.abilities.adds_up is False


def test_a_run_of_this_house_is_known(gpt2_run: Path, backpack_run: Path, monkeypatch) -> None:
    for run in (gpt2_run, backpack_run):
        model = open_model(run)
        monkeypatch.setattr(model, "logits", lambda *_: pytest.fail("asked"))
        assert model.abilities.predicts


def test_it_leaves_no_hook_and_no_trace(tiny_folder: Callable[[str], Path]) -> None:
    model = open_model(tiny_folder("gpt2"), device="cpu")
    state = torch.random.get_rng_state()
    assert model.abilities.causal
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(
        part._forward_hooks or part._forward_pre_hooks for part in model.module.modules()
    )


def test_a_model_that_cannot_read_is_told_in_one_line(
    tiny_folder: Callable[[str], Path], monkeypatch
) -> None:
    model = open_model(tiny_folder("gpt2"), device="cpu")

    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("shapes differ\nat length")

    monkeypatch.setattr(model.module, "forward", broken)
    with pytest.raises(UserError, match="cannot read 12 tokens: shapes differ") as error:
        _ = model.abilities
    assert "\n" not in str(error.value)


def asked(model: Model, tmp_path: Path) -> dict[str, str]:
    return model.abilities.left_out()


def test_the_reason_is_given_for_each_figure_it_costs(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = open_model(tiny_folder("gpt2"), device="cpu")
    encoder = open_model(tiny_folder("bert"), device="cpu")
    bare = open_model(headless("bert", tmp_path, small_tokenizer()), device="cpu")
    assert asked(whole, tmp_path) == {}
    assert "ce_recovered" in asked(encoder, tmp_path)
    assert "kl" not in asked(encoder, tmp_path)  # of its masked words
    assert {"ce_recovered", "kl_recovered"} <= asked(bare, tmp_path).keys()


def test_sites_that_do_not_add_up_are_told_once(
    tiny_folder: Callable[[str], Path], capsys: pytest.CaptureFixture
) -> None:
    told = "normalises its sums: attention and mlp are what is added before that"
    model = open_model(tiny_folder("roberta"), device="cpu")
    tell(model, [residual(0)])
    assert told not in capsys.readouterr().err
    for _ in range(2):
        tell(model, [Site("mlp", 0)])
    assert capsys.readouterr().err.count(told) == 1
    tell(open_model(tiny_folder("llama"), device="cpu"), [Site("mlp", 0)])
    assert not capsys.readouterr().err
