"""A figure of an evaluation that is missing has a reason: in the file, in --json and under the table."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from activations.small_stores import huggingface_model
from cutaway.dictionaries.architectures.registry import build
from cutaway.dictionaries.model.dictionary import DictionaryShape
from cutaway.dictionaries.synthetic.truth import Hierarchy
from cutaway.evaluations.evaluate import Evaluation, evaluate, left_out
from cutaway.evaluations.known_truth.judging import judge_synthetic
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model

Text = list[tuple[torch.Tensor, None, None]]


@pytest.fixture
def model(tiny_folder: Callable[[str], Path]) -> Model:
    return open_model(tiny_folder("llama"), device="cpu")


def judged(model: Model, text: Text, **given: Any) -> Evaluation:
    made = build(DictionaryShape("topk", model.width, 32, k=4), 0)
    sample = torch.randn(50, model.width, generator=torch.Generator().manual_seed(0))
    return evaluate(made, model, text, site="residual.0", training=[sample], **given)


def require_reasons(found: Evaluation) -> None:
    """Every figure is a number or has a reason, and nothing else has one."""
    missing = {
        name for name, value in asdict(found).items()
        if isinstance(value, float) and not math.isfinite(value)
    }  # fmt: skip
    of_baselines = {
        f"{coder}.{name}" for coder, figures in found.baselines.items()
        for name, value in figures.items() if not math.isfinite(value)
    }  # fmt: skip
    assert missing == {name for name in found.left_out if "." not in name}
    for name in of_baselines:
        bare = name.rpartition(".")[2]
        assert name in found.left_out or {bare, f"{bare}_spliced"} & set(found.left_out), name
    for reason in found.left_out.values():
        assert reason
        assert "\n" not in reason
    assert found.to_json()["left_out"] == found.left_out


def zeroed_head(model: Model) -> None:
    model.module.lm_head.weight.zero_()


def same_embeddings(model: Model) -> None:
    model.module.model.embed_tokens.weight[:] = 1.0
    for layer in model.module.model.layers:
        layer.mlp.down_proj.weight.zero_()
        layer.self_attn.o_proj.weight.zero_()


def infinite_head(model: Model) -> None:
    model.module.lm_head.weight.fill_(math.nan)


def infinite_of_zeros(model: Model) -> None:
    """Logits of a state of zeros, which later blocks pass on as it is."""
    for layer in model.module.model.layers[1:]:
        layer.mlp.down_proj.weight.zero_()
        layer.self_attn.o_proj.weight.zero_()

    def spoil(module: Any, args: Any, output: Any) -> Any:
        zero = args[0].norm(dim=-1, keepdim=True) == 0
        return torch.where(zero, torch.full_like(output, math.nan), output)

    model.module.model.norm.register_forward_hook(spoil)


WORLDS: dict[str, tuple[Callable[[Model], None], int, dict[str, str]]] = {
    "every token equally likely": (
        zeroed_head, 12,
        {"ce_recovered": "does not raise the loss", "kl_recovered": "does not change what"},
    ),
    "constant states": (
        same_embeddings, 12, {"explained_variance": "the states are all the same"},
    ),
    "one token that counts": (
        lambda model: None, 2,
        {"explained_variance": "only one token counts", "ce_clean": "has a token after it",
         "ce_recovered": "has a token after it"},
    ),
    "logits that are not finite": (
        infinite_head, 12, {"ce_clean": "logits are not finite", "kl": "logits are not finite"},
    ),
    "logits that are not finite with zeros": (
        infinite_of_zeros, 12,
        {"ce_zero": "with the states set to zero", "ce_recovered": "with the states set to zero",
         "kl_recovered": "with the states set to zero"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("world", WORLDS)
def test_a_figure_that_is_not_a_number_has_its_reason(world: str, model: Model) -> None:
    change, length, expected = WORLDS[world]
    with torch.no_grad():
        change(model)
    tokens = torch.arange(length)[None] % 30 + 5
    found = judged(model, [(tokens, None, None)])
    for name, reason in expected.items():
        assert reason in found.left_out[name], found.left_out
    require_reasons(found)
    told = left_out([found])
    assert len(told) == len(set(told))
    assert all(line.startswith("residual.0: ") for line in told)


def test_nothing_is_left_out_where_every_figure_is_there(model: Model) -> None:
    tokens = (torch.arange(48).view(4, 12) * 7) % 40 + 5
    found = judged(model, [(tokens, None, None)])
    assert "explained_variance" not in found.left_out
    require_reasons(found)


def test_synthetic_states_are_of_no_model(tmp_path: Path) -> None:
    made = build(DictionaryShape("topk", 12, 16, k=2), 0)
    made.metadata = {"synthetic": {**Hierarchy(8, 2, 12).to_json(), "data_seed": 0}}
    found = judge_synthetic(made, tmp_path, tokens=1)
    require_reasons(found)
    assert "of no model" in found.left_out["ce_clean"]


def test_the_command_says_it_under_the_table_and_in_json(
    gpt2_run: Path, cutaway: Callable[..., Any], tmp_path: Path
) -> None:
    """Of a model whose states are all the same."""
    folder = huggingface_model(gpt2_run, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    for name, value in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            value.zero_()
        elif "embed_tokens" in name:
            value.fill_(1.0)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model = open_model(folder, device="cpu")
    made = build(DictionaryShape("topk", model.width, 32, k=4), 0)
    made.metadata = {"site": "residual.0", "reference": model.reference.to_json()}
    made.save(tmp_path / "dictionary")
    (tmp_path / "text.txt").write_text("the old king sees the river at night. " * 20)
    words = ("sae", "eval", tmp_path / "dictionary", "--data", tmp_path / "text.txt")
    code, out, err = cutaway(*words)
    assert code == 0, err
    assert "residual.0: EV, EV with position 0 left out: the states are all the same" in out
    code, out, err = cutaway(*words, "--json")
    assert code == 0, err
    (found,) = json.loads(out)
    assert found["explained_variance"] is None
    assert "states are all the same" in found["left_out"]["explained_variance"]
    code, out, err = cutaway(*words, "--csv")
    assert code == 0, err
    assert "left out" not in out
    assert "left out: the states are all the same" in err
