"""Weights, states and tables of goldens give in Python what they gave when they were made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from golden.answers import ANSWERS, MODELS, PROMPT
from golden.folders import VERSIONS, having

KEPT = [
    pytest.param(version, file, id=f"{version.name}: {file.stem}")
    for version in VERSIONS
    for file in sorted((version / "expected").glob("*.safetensors"))
]
RELATIVE, OF_THE_LARGEST = 1e-3, 1e-4  # float32 through a network, on another processor


@pytest.mark.parametrize(("version", "file"), KEPT)
def test_a_golden_answers_as_it_did(
    version: Path, file: Path, copied: Callable[[Path], Path]
) -> None:
    saved, now = load_file(file), ANSWERS[file.stem][0](copied(version))
    assert not saved.keys() - now.keys()
    for name, tensor in saved.items():
        atol = OF_THE_LARGEST * float(tensor.nan_to_num().abs().max())
        torch.testing.assert_close(
            now[name],
            tensor,
            rtol=RELATIVE,
            atol=atol,
            equal_nan=True,
            msg=lambda m, n=name: f"{n}: {m}",
        )


@pytest.mark.parametrize("version", having("exports/huggingface"), ids=lambda one: one.name)
def test_an_export_is_read_by_transformers_and_is_the_run(
    version: Path, copied: Callable[[Path], Path]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = copied(version) / "exports/huggingface"
    tokens = torch.tensor([AutoTokenizer.from_pretrained(folder).encode(PROMPT)])[:, :16]
    logits = AutoModelForCausalLM.from_pretrained(folder)(tokens).logits
    saved = load_file(version / "expected/logits.safetensors")
    for name in (MODELS[0], "exports/huggingface"):
        torch.testing.assert_close(logits, saved[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("version", having("pipeline", "suites"), ids=lambda one: one.name)
def test_what_a_pipeline_left_is_what_is_read_anew(
    version: Path, copied: Callable[[Path], Path]
) -> None:
    """`features/`, `evaluation.json` and `suite.parquet`, opened without their model."""
    import json

    from cutaway.evaluations.evaluate import Evaluation
    from cutaway.evaluations.suite.run import stored
    from cutaway.features.table import Features

    run = version / "pipeline/residual.1"
    readings = json.loads((version / "expected/pipeline.json").read_text())
    answers = {one["command"]: one["answer"] for one in readings}
    states = "--model language/gpt2 --activations pipeline/activations"
    features = Features.load(run / "features")
    listed = {
        row["feature"]: row
        for row in answers[f"sae features pipeline/residual.1 {states} --top 32"]
    }
    assert len(features) == len(listed) == 32
    for index, row in listed.items():
        assert features.row(index)["density"] == pytest.approx(row["density"], abs=2e-3)
        assert features.row(index)["max"] == pytest.approx(row["max"], rel=1e-3, abs=1e-6)
    judged = answers[f"sae eval pipeline/residual.0 pipeline/residual.1 {states}"][1]
    kept = Evaluation.load(run)
    for name in ("l0", "explained_variance", "ce_recovered", "dead_share"):
        assert getattr(kept, name) == pytest.approx(judged[name], rel=1e-3, abs=1e-3)
    assert len(stored(run)) > 0
    assert len(stored(version / "suites/scr")) > 0
