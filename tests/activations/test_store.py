"""The store gives back what was captured, says where each row came from, and knows damage."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from activations.small_stores import made, states
from cutaway.activations.store import ActivationStore
from cutaway.base.errors import UserError
from cutaway.nets.reference import open_model
from cutaway.nets.sites import EMBED, Site

R0 = Site("residual", 0)


@pytest.fixture(scope="module")
def store(
    gpt2_run: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> ActivationStore:
    return made(gpt2_run, corpus, tmp_path_factory.mktemp("stores") / "float32")


@pytest.fixture(scope="module")
def truth(gpt2_run: Path, corpus: Path) -> dict[Site, torch.Tensor]:
    return states(open_model(gpt2_run), corpus, [EMBED, R0])


@pytest.fixture
def copy(store: ActivationStore, tmp_path: Path) -> Path:
    """The store's folder, to be damaged."""
    return Path(shutil.copytree(store.path, tmp_path / "copy"))


def test_rows_are_the_captured_states(
    store: ActivationStore, truth: dict[Site, torch.Tensor]
) -> None:
    assert len(store.manifest["shards"]) >= 3
    assert store.rows == 6_000
    for site in (EMBED, R0):
        assert torch.equal(store.read(site), truth[site].flatten(0, 1))
    assert torch.equal(store.read("residual.0", 250, 777), truth[R0].flatten(0, 1)[250:777])


def test_rows_say_where_they_came_from(
    store: ActivationStore, gpt2_run: Path, corpus: Path
) -> None:
    from cutaway.activations.extraction import pack

    text = pack(open_model(gpt2_run), str(corpus), 6_000, None, bos=False)
    wanted = text.contexts(0, text.n_contexts)
    assert store.tokens().tolist() == wanted.tokens.ravel().tolist()
    assert store.positions().tolist() == wanted.positions.ravel().tolist()
    assert store.documents().tolist() == wanted.documents.ravel().tolist()
    assert store.tokens(300, 310).tolist() == wanted.tokens.ravel()[300:310].tolist()


def test_the_store_knows_its_model(store: ActivationStore, gpt2_run: Path) -> None:
    assert store.reference.same_model(open_model(gpt2_run).reference)
    assert store.width == 16
    assert store.sites == [EMBED, R0]


def test_means_and_norms_keep_position_0_apart(
    store: ActivationStore, truth: dict[Site, torch.Tensor]
) -> None:
    for site, whole in truth.items():
        whole = whole.double()
        parts = {"rest": whole[:, 1:], "first": whole[:, :1], "all": whole}
        for name, part in parts.items():
            rows = part.flatten(0, 1)
            norms = rows.norm(dim=1)
            assert store.statistics(site, name)["rows"] == len(rows)
            torch.testing.assert_close(store.mean(site, name), rows.mean(0), rtol=1e-12, atol=1e-14)
            assert store.mean_norm(site, name) == pytest.approx(float(norms.mean()), rel=1e-6)
            assert store.mean_squared_norm(site, name) == pytest.approx(
                float(norms.square().mean()), rel=1e-6
            )


def test_a_bfloat16_store_rounds_and_says_how_much(
    gpt2_run: Path, corpus: Path, tmp_path: Path, truth: dict[Site, torch.Tensor]
) -> None:
    store = made(gpt2_run, corpus, tmp_path / "s", store_dtype="bfloat16")
    rows = truth[R0].flatten(0, 1)
    read = store.read(R0)
    assert read.dtype == torch.float32
    assert torch.equal(read, rows.bfloat16().float())


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_the_stated_error_is_the_one_that_is_there(
    gpt2_run: Path, corpus: Path, tmp_path: Path, truth: dict[Site, torch.Tensor], dtype: str
) -> None:
    store = made(gpt2_run, corpus, tmp_path / "s", store_dtype=dtype)
    rest = store.positions() != 0
    for site in (EMBED, R0):
        rows, read = truth[site].flatten(0, 1)[rest].double(), store.read(site)[rest].double()
        error = ((rows - read).square().sum(1) / rows.square().sum(1)).mean()
        stated = store.manifest["statistics"][str(site)]["relative_error"]
        assert stated == pytest.approx(float(error), rel=1e-3)
        assert 0 < stated < 1e-4


def test_int8_is_off_by_at_most_half_a_step(
    gpt2_run: Path, corpus: Path, tmp_path: Path, truth: dict[Site, torch.Tensor]
) -> None:
    store = made(gpt2_run, corpus, tmp_path / "s", store_dtype="int8")
    rows = truth[R0].flatten(0, 1)
    step = rows.abs().amax(1, keepdim=True) / 127
    assert ((store.read(R0) - rows).abs() <= 0.501 * step).all()


def test_shards_are_plain_safetensors(store: ActivationStore) -> None:
    at = 0
    for shard in store.manifest["shards"]:
        tensors = load_file(store.path / "shards" / shard["file"])
        assert torch.equal(tensors["residual.0"], store.read(R0, at, at + shard["rows"]))
        assert tensors["tokens"].dtype == torch.int32
        at += shard["rows"]
    assert at == store.rows


def test_the_split_is_at_a_document_border(store: ActivationStore) -> None:
    train, validation = store.split(0.2)
    documents = store.documents()
    assert (train.start, train.stop, validation.stop) == (0, validation.start, store.rows)
    assert documents[train.stop - 1] != documents[validation.start]
    assert 0.1 <= len(validation) / store.rows <= 0.3
    with pytest.raises(UserError, match=r"0\.7"):
        store.split(0.7)


def test_an_unknown_site_is_named_with_those_there(store: ActivationStore) -> None:
    with pytest.raises(UserError, match=r"'5'.*holds embed"):
        store.site("5")


def test_a_missing_shard_is_named(copy: Path) -> None:
    (copy / "shards" / "00001.safetensors").unlink()
    with pytest.raises(UserError, match=r"00001\.safetensors: missing"):
        ActivationStore(copy)


def test_a_truncated_shard_is_named(copy: Path) -> None:
    shard = copy / "shards" / "00002.safetensors"
    os.truncate(shard, shard.stat().st_size - 100)
    with pytest.raises(UserError, match=r"00002\.safetensors: damaged, \d+ bytes instead of"):
        ActivationStore(copy)


def test_a_flipped_bit_is_found_by_its_checksum(copy: Path) -> None:
    assert ActivationStore(copy).verify() == []
    shard = copy / "shards" / "00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert [line.rpartition("/")[2] for line in ActivationStore(copy).verify()] == [
        "00000.safetensors: damaged, its content differs from its checksum"
    ]


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("shards",), None, r"shards = missing: expected a list"),
        (("sites",), [0], r"sites = \[0\]: expected names"),
        (("width",), "16", r"width = '16': expected a whole number"),
        (("reference",), None, r"reference = missing: expected an object"),
        (("data", "context_length"), None, r"data\.context_length = missing"),
        (("contexts",), 2.5, r"contexts = 2\.5: expected a whole number"),
        (("shards", 0, "rows"), None, r"shards\[0\]\.rows = missing"),
        (("shards", 1, "statistics", "embed"), None, r"shards\[1\]\.statistics\.embed: missing"),
    ],
)
def test_what_is_wrong_in_a_manifest_is_named(place, value, said: str, copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    inside = manifest
    for step in place[:-1]:
        inside = inside[step]
    if value is None:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=f"manifest.json: damaged: {said}"):
        ActivationStore(copy)


def test_other_folders_are_told_apart(copy: Path, gpt2_run: Path, tmp_path: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    for changes, said in (
        ({"format": 2}, "newer"),
        ({"kind": "tokens"}, "not the manifest of an activation store"),
        ({"dtype": "float16"}, "not the manifest"),
    ):
        (copy / "manifest.json").write_text(json.dumps({**manifest, **changes}))
        with pytest.raises(UserError, match=said):
            ActivationStore(copy)
    (copy / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        ActivationStore(copy)
    with pytest.raises(UserError, match="holds a language run"):
        ActivationStore(gpt2_run)
    with pytest.raises(UserError, match="no such folder"):
        ActivationStore(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no manifest\.json"):
        ActivationStore(tmp_path)
