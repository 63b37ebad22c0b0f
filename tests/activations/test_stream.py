"""Streams give each row once an epoch, mixed, and batch i is the same however it is come by."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from activations.small_stores import huggingface_model, made, states
from cutaway.activations.model_stream import ModelStream
from cutaway.activations.shards import write_shard
from cutaway.activations.store import ActivationStore
from cutaway.activations.stream import ActivationStream
from cutaway.base.errors import RunFailed, UserError
from cutaway.base.files import write_json
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model
from cutaway.nets.sites import EMBED, Site

R0 = Site("residual", 0)
SMALL = {"block": 64, "window": 512}  # twelve windows of eight blocks in the stores here


@pytest.fixture(scope="module")
def store(
    gpt2_run: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> ActivationStore:
    return made(gpt2_run, corpus, tmp_path_factory.mktemp("stores") / "float32")


@pytest.fixture(scope="module")
def model(gpt2_run: Path) -> Model:
    return open_model(gpt2_run, device="cpu")


def same_rows(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors have the same rows, each as often, in any order."""

    def ordered(rows: torch.Tensor) -> list[list[float]]:
        return sorted(rows.tolist())

    return one.shape == other.shape and ordered(one) == ordered(other)


def epoch(stream: ActivationStream | ModelStream, number: int = 0) -> torch.Tensor:
    """The rows of one epoch, from as many batches as hold them."""
    first = number * stream.rows
    low, high = first // stream.batch_size, (first + stream.rows) // stream.batch_size + 1
    rows = torch.cat([stream.batch(index) for index in range(low, high)])
    start = first - low * stream.batch_size
    return rows[start : start + stream.rows]


def test_an_epoch_gives_every_row_once_without_position_0(store: ActivationStore) -> None:
    stream = ActivationStream(store, R0, 100, part="all", **SMALL)
    kept = store.read(R0)[store.positions() != 0]
    assert stream.rows == len(kept) == 5_625
    assert stream.n_batches_per_epoch == 57
    for number in (0, 1):
        assert same_rows(epoch(stream, number), kept)
    assert not torch.equal(epoch(stream, 0), epoch(stream, 1))


def test_position_0_comes_along_where_it_is_asked_for(store: ActivationStore) -> None:
    stream = ActivationStream(store, R0, 100, part="all", skip_first=False, **SMALL)
    assert same_rows(epoch(stream), store.read(R0))


def test_batches_mix_rows_of_the_whole_window(store: ActivationStore) -> None:
    stream = ActivationStream(store, R0, 100, part="all", skip_first=False, **SMALL)
    rows = [tuple(row) for row in store.read(R0).tolist()]
    often = Counter(rows)  # two contexts may begin alike
    place = {row: at for at, row in enumerate(rows) if often[row] == 1}
    drawn = [tuple(row) for row in stream.batch(0).tolist()]
    blocks = {place[row] // 64 for row in drawn if row in place}
    assert len(blocks) == 8
    assert max(blocks) - min(blocks) > 8  # blocks from all over the store


def test_a_batch_is_the_same_however_it_is_come_by(store: ActivationStore) -> None:
    walked = ActivationStream(store, R0, 100, seed=3, **SMALL)
    expected = [walked.batch(index) for index in range(70)]
    assert len(expected) * 100 > walked.rows  # goes over into the second epoch
    jumped = ActivationStream(store, R0, 100, seed=3, **SMALL)
    for index in (37, 69, 5, 6, 7, 60, 0):
        assert torch.equal(jumped.batch(index), expected[index])
    other = ActivationStream(store, R0, 100, seed=4, **SMALL)
    assert not torch.equal(other.batch(5), expected[5])


def test_a_batch_belongs_to_the_caller(store: ActivationStore) -> None:
    stream = ActivationStream(store, R0, 100, **SMALL)
    first = stream.batch(3).clone()
    stream.batch(3).zero_()
    assert torch.equal(stream.batch(3), first)


def test_one_batch_may_be_larger_than_the_store(store: ActivationStore) -> None:
    stream = ActivationStream(store, R0, 13_000, part="all", **SMALL)
    assert same_rows(stream.batch(0)[:5_625], stream.batch(0)[5_625 : 2 * 5_625])


def test_train_and_validation_share_no_document(store: ActivationStore) -> None:
    train = ActivationStream(store, R0, 100, part="train", validation_fraction=0.2)
    held = ActivationStream(store, R0, 100, part="validation", validation_fraction=0.2)
    rows, documents = store.read(R0), store.documents()
    at = store.split(0.2)[1].start
    assert documents[at - 1] != documents[at]
    keep = store.positions() != 0
    assert same_rows(epoch(train), rows[:at][keep[:at]])
    assert same_rows(epoch(held), rows[at:][keep[at:]])


def test_several_sites_come_with_the_same_rows(store: ActivationStore) -> None:
    both = ActivationStream(store, batch_size=100, sites=[EMBED, "0"], **SMALL)
    batch = both.batch(4)
    assert batch.shape == (2, 100, 16)
    for index, site in enumerate((EMBED, R0)):
        assert torch.equal(batch[index], ActivationStream(store, site, 100, **SMALL).batch(4))


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_what_is_stored_in_fewer_bytes_is_streamed_as_float32(
    gpt2_run: Path, corpus: Path, tmp_path: Path, dtype: str
) -> None:
    small = made(gpt2_run, corpus, tmp_path / "s", store_dtype=dtype)
    stream = ActivationStream(small, R0, 100, part="all", **SMALL)
    assert stream.batch(0).dtype == torch.float32
    assert same_rows(epoch(stream), small.read(R0)[small.positions() != 0])
    half = ActivationStream(small, R0, 100, part="all", dtype=torch.bfloat16, **SMALL)
    assert torch.equal(half.batch(2), stream.batch(2).bfloat16())


def test_blocks_walk_through_the_part_in_order(store: ActivationStore) -> None:
    stream = ActivationStream(store, R0, 100, part="validation")
    start = store.split(0.1)[1].start
    wanted = store.read(R0, start)[store.positions(start) != 0]
    assert torch.equal(torch.cat(list(stream.blocks())), wanted)


def test_statistics_are_those_of_the_rows_streamed(store: ActivationStore) -> None:
    stream = ActivationStream(store, R0, 100)
    assert stream.mean_squared_norm() == store.mean_squared_norm(R0, "rest")
    assert torch.equal(stream.mean(), store.mean(R0, "rest"))


def test_a_stream_without_rows_is_refused(store: ActivationStore, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(store.path, tmp_path / "copy"))
    manifest = store.manifest
    for shard in manifest["shards"]:
        file = copy / "shards" / shard["file"]
        tensors = load_file(file)
        tensors["positions"].zero_()
        shard |= write_shard(file, tensors)
    write_json(copy / "manifest.json", manifest)
    with pytest.raises(UserError, match="nothing to stream"):
        ActivationStream(ActivationStore(copy), R0, 100, part="all")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"part": "test"}, "part = 'test'"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"site": "7"}, "holds embed"),
        ({"site": None}, "needs a site"),
        ({"validation_fraction": 0.9}, r"0\.9"),
    ],
)
def test_settings_out_of_range_are_refused(
    store: ActivationStore, settings: dict, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        ActivationStream(store, **{"site": R0, **settings})


# -- straight from the model ---------------------------------------------------------------------

DIRECT = {"tokens": 6_000, "buffer_contexts": 20}


def test_a_model_streams_each_of_its_states_once_an_epoch(model: Model, corpus: Path) -> None:
    stream = ModelStream(model, str(corpus), R0, 100, part="all", **DIRECT)
    truth = states(model, corpus, [R0])[R0][:, 1:].flatten(0, 1)
    assert stream.rows == len(truth)
    for number in (0, 1):
        got = epoch(stream, number)
        assert got.shape == truth.shape
        # other contexts share a forward pass, so equal up to rounding only
        distance = torch.cdist(got, truth, compute_mode="donot_use_mm_for_euclid_dist")
        assert distance.amin(0).max() < 1e-4
        assert distance.amin(1).max() < 1e-4
        torch.testing.assert_close(got.double().sum(0), truth.double().sum(0), rtol=1e-4, atol=0.1)


def test_a_batch_of_a_model_is_the_same_however_it_is_come_by(model: Model, corpus: Path) -> None:
    walked = ModelStream(model, str(corpus), R0, 70, seed=5, **DIRECT)
    expected = [walked.batch(index) for index in range(90)]
    assert len(expected) * 70 > walked.rows
    jumped = ModelStream(model, str(corpus), R0, 70, seed=5, **DIRECT)
    for index in (80, 81, 3, 44):
        assert torch.equal(jumped.batch(index), expected[index])


def test_a_model_streams_several_sites_at_once(model: Model, corpus: Path) -> None:
    both = ModelStream(model, str(corpus), [EMBED, R0], 70, **DIRECT)
    batch = both.batch(2)
    assert batch.shape == (2, 70, 16)
    assert torch.equal(batch[1], ModelStream(model, str(corpus), R0, 70, **DIRECT).batch(2))
    assert both.mean(EMBED).shape == (16,)


def test_blocks_of_a_model_are_its_held_out_states_in_order(model: Model, corpus: Path) -> None:
    held = ModelStream(model, str(corpus), R0, 70, part="validation", **DIRECT)
    got = torch.cat(list(held.blocks()))
    truth = states(model, corpus, [R0])[R0][-(held.rows // 15) :, 1:].flatten(0, 1)
    torch.testing.assert_close(got, truth, rtol=1e-4, atol=1e-5)
    assert 0.05 < held.rows / 5_625 < 0.15


def test_statistics_of_a_model_are_near_those_of_a_store(
    model: Model, corpus: Path, store: ActivationStore
) -> None:
    stream = ModelStream(model, str(corpus), R0, 70, tokens=6_000)
    assert stream.mean_squared_norm() == pytest.approx(store.mean_squared_norm(R0), rel=0.05)


def test_other_rows_stand_in_for_states_that_are_not_finite(
    gpt2_run: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    token = open_model(gpt2_run).reads.encode("president")[0]
    poisoned = open_model(huggingface_model(gpt2_run, tmp_path / "hf", poison=token))
    stream = ModelStream(poisoned, str(corpus), "0", 100, part="all", **DIRECT)
    assert epoch(stream).isfinite().all()
    said = capsys.readouterr().err
    assert said.count("not finite") == 1
    rows = torch.cat(list(stream.blocks()))
    assert 0 < len(rows) < stream.rows


def test_a_model_without_any_finite_state_fails(
    gpt2_run: Path, corpus: Path, tmp_path: Path
) -> None:
    folder = huggingface_model(gpt2_run, tmp_path / "hf", poison=slice(None))
    stream = ModelStream(open_model(folder), str(corpus), "0", 100, part="all", **DIRECT)
    with pytest.raises(RunFailed, match="every token"):
        stream.batch(0)
