"""What a SAELens file says of model, hook and tokens is read, checked, kept and written back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cutaway.base.errors import UserError
from cutaway.dictionaries import origin
from cutaway.dictionaries.files import export
from cutaway.dictionaries.model.dictionary import Dictionary
from cutaway.dictionaries.origin import require_model, site_of, skips_first
from cutaway.nets.model import ModelReference
from dictionaries.files.cases import WIDTH, saelens_folder, trained

NEW = {
    "sae_lens_version": "6.22.1",
    "sae_lens_training_version": "6.22.1",
    "model_name": "gpt2-small",
    "hook_name": "blocks.8.hook_resid_pre",
    "hook_head_index": None,
    "prepend_bos": True,
    "context_size": 64,
    "seqpos_slice": [None],
    "dataset_path": "Skylion007/openwebtext",
    "model_from_pretrained_kwargs": {"center_writing_weights": True},
    "neuronpedia_id": "gpt2-small/8-res",
    "something_of_a_later_version": [1, 2],
}
OLD = {name: NEW[name] for name in ("model_name", "prepend_bos", "context_size", "dataset_path")}
GPT2 = ModelReference(
    kind="huggingface",
    id="openai-community/gpt2",
    revision=None,
    step=None,
    weights_sha256="0" * 64,
    tokenizer_sha256=None,
    n_layers=12,
    width=WIDTH,
)


def imported(folder: Path, metadata: dict[str, Any], **beside: Any) -> Dictionary:
    saelens_folder(folder, "standard", metadata=metadata, **beside)
    return Dictionary.load(folder, device="cpu")


def test_everything_the_metadata_said_is_written_back(tmp_path: Path) -> None:
    found = imported(tmp_path / "a", NEW)
    assert found.metadata["site"] == "residual.7"
    assert found.metadata["bos"] is True
    assert found.metadata["context_length"] == 64
    assert found.metadata["source"]["model"] == "gpt2-small"
    assert found.metadata["source"]["dataset"] == "Skylion007/openwebtext"
    for form in ("cutaway", "saelens"):  # by way of our own form, too
        export(found, tmp_path / form, form)
        found = Dictionary.load(tmp_path / form, device="cpu")
    written = json.loads((tmp_path / "saelens" / "cfg.json").read_text())["metadata"]
    assert {name: written[name] for name in NEW} == NEW


def test_what_stood_beside_the_sizes_before_6_is_written_where_it_stands_now(
    tmp_path: Path,
) -> None:
    found = imported(tmp_path / "a", {}, hook_point="blocks.3.hook_mlp_out", hook_layer=3, **OLD)
    assert found.metadata["site"] == "mlp.3"
    export(found, tmp_path / "b", "saelens")
    written = json.loads((tmp_path / "b" / "cfg.json").read_text())["metadata"]
    assert {name: written[name] for name in OLD} == OLD
    assert written["hook_name"] == "blocks.3.hook_mlp_out"
    assert written["sae_lens_version"] == "6.0.0"


def test_what_our_own_training_knows_is_written(tmp_path: Path) -> None:
    own = trained("topk")
    own.metadata |= {"bos": True, "context_length": 32, "positions": "without 0"}
    export(own, tmp_path, "saelens")
    written = json.loads((tmp_path / "cfg.json").read_text())["metadata"]
    assert written["prepend_bos"] is True
    assert written["context_size"] == 32
    assert written["seqpos_slice"] == [1, None]
    found = Dictionary.load(tmp_path, device="cpu")
    assert found.metadata["positions"] == "without 0"
    assert skips_first(found)


@pytest.mark.parametrize(
    ("metadata", "positions"),
    [
        ({"seqpos_slice": [5, None]}, "without 0"),
        ({"seqpos_slice": [None]}, None),
        ({"exclude_special_tokens": True, "prepend_bos": True}, "without 0"),
    ],
)
def test_which_positions_were_trained_on(
    metadata: dict[str, Any], positions: str | None, tmp_path: Path
) -> None:
    assert imported(tmp_path, NEW | metadata).metadata["positions"] == positions


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"model_name": 3}, "metadata.model_name = 3: expected text"),
        ({"prepend_bos": "yes"}, "metadata.prepend_bos = 'yes': expected true or false"),
        ({"context_size": "64"}, "metadata.context_size = '64': expected a whole number"),
        ({"seqpos_slice": "1:"}, "metadata.seqpos_slice = '1:': expected a list"),
        (
            {"seqpos_slice": ["a"]},
            r"metadata.seqpos_slice = \['a'\]: expected \[start, stop, step\]",
        ),
        ({"cutaway": []}, r"metadata.cutaway = \[\]: expected an object"),
    ],
)
def test_metadata_of_another_type_is_refused(
    metadata: dict[str, Any], says: str, tmp_path: Path
) -> None:
    saelens_folder(tmp_path, "standard", metadata=NEW | metadata)
    with pytest.raises(UserError, match=says):
        Dictionary.load(tmp_path)


def test_a_model_of_another_name_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = imported(tmp_path, NEW)
    require_model(found, GPT2, WIDTH)  # TransformerLens's name of it
    assert capsys.readouterr().err == ""
    other = replace(GPT2, id="EleutherAI/pythia-160m")
    for _ in range(2):
        require_model(found, other, WIDTH)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "names the model 'gpt2-small', and EleutherAI/pythia-160m is used" in told
    with pytest.raises(UserError, match="made for states of width 12"):
        require_model(found, GPT2, WIDTH + 1)


def test_a_hook_that_is_no_site_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hook = "blocks.8.attn.hook_pattern"
    found = imported(tmp_path / "a", NEW | {"hook_name": hook})
    with pytest.raises(UserError, match=f"trained at {hook}, which is no site we read"):
        site_of(found)
    placed = Dictionary.load(tmp_path / "a", device="cpu", site="attention.8")
    assert f"trained at {hook}, which is no site we read" in capsys.readouterr().err
    export(found, tmp_path / "b", "saelens")
    written = json.loads((tmp_path / "b" / "cfg.json").read_text())["metadata"]
    assert written["hook_name"] == hook
    assert str(site_of(placed)) == "attention.8"


def test_bos_the_model_lacks_and_contexts_it_cannot_read_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = imported(tmp_path, NEW)
    model: Any = SimpleNamespace(bos_id=None, max_length=16, reference=GPT2)
    assert not origin.begins_with_bos(found, model)
    assert "names no BOS token; text is read without" in capsys.readouterr().err
    assert origin.context_length(found, model) == 16
    model.bos_id = 0
    assert origin.begins_with_bos(found, model)
    store: Any = SimpleNamespace(manifest={"data": {"bos": None}}, path="acts")
    origin.compare_store(found, store)
    assert "trained on contexts with BOS, and those of acts are without it" in (
        capsys.readouterr().err
    )
