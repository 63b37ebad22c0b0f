"""Extraction: what is asked for, all of it in one pass, and the same files after any kill."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
from pathlib import Path

import pytest
import torch

from activations.small_stores import huggingface_model, made, states
from conftest import PATIENCE, command
from cutaway.activations import forward
from cutaway.activations.config import ExtractionConfig
from cutaway.activations.extraction import extract, pack
from cutaway.activations.store import ActivationStore
from cutaway.base import files
from cutaway.base.errors import RunFailed, UserError
from cutaway.nets.reference import open_model
from cutaway.nets.sites import parse_sites
from cutaway.runs.folder import Run
from stopping import stopped_writing

SITES = "embed,attention.0,mlp.1,residual.1"


@pytest.fixture(scope="module")
def llama(gpt2_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return huggingface_model(gpt2_run, tmp_path_factory.mktemp("models") / "llama")


def shards(folder: Path) -> dict[str, str]:
    """Name and SHA-256 of each shard."""
    return {path.name: files.sha256(path) for path in sorted((folder / "shards").iterdir())}


def test_any_sites_come_from_one_pass(
    llama: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_model(llama)
    sites = parse_sites(SITES, model.n_layers)
    truth = states(model, corpus, sites, tokens=2_000)
    passes = []

    def counted(*arguments: object) -> object:
        passes.append(1)
        return forward_capture(*arguments)

    forward_capture = forward.capture
    monkeypatch.setattr(forward, "capture", counted)
    store = made(llama, corpus, tmp_path / "s", layers=SITES, tokens=2_000)
    assert store.sites == sites
    for site in sites:
        assert torch.equal(store.read(site), truth[site].flatten(0, 1))
    assert len(passes) == 8  # 63 contexts of 32, eight at a time


def test_bos_begins_each_context_and_is_left_out(llama: Path, corpus: Path, tmp_path: Path) -> None:
    model = open_model(llama)
    (site,) = parse_sites("1", model.n_layers)
    store = made(llama, corpus, tmp_path / "s", layers="1", bos=True, tokens=2_000)
    text = pack(model, str(corpus), 2_000, None, bos=True)
    tokens = torch.from_numpy(text.contexts(0, text.n_contexts).tokens)
    assert (tokens[:, 0] == model.bos_id).all()
    truth = states(model, corpus, [site], tokens=2_000, bos=True)[site]
    assert torch.equal(store.read(site), truth[:, 1:].flatten(0, 1))
    assert set(store.positions().tolist()) == set(range(1, 32))
    assert store.statistics(site, "first")["rows"] == 0


def test_states_that_are_not_finite_are_left_out_and_counted(
    gpt2_run: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    token = open_model(gpt2_run).reads.encode("president")[0]
    folder = huggingface_model(gpt2_run, tmp_path / "hf", poison=token)
    model = open_model(folder)
    sites = parse_sites("embed,1", model.n_layers)
    truth = {site: rows.flatten(0, 1) for site, rows in states(model, corpus, sites).items()}
    finite = {site: rows.isfinite().all(1) for site, rows in truth.items()}
    kept = finite[sites[0]] & finite[sites[1]]
    assert 0 < int(kept.sum()) < int(finite[sites[0]].sum()) < len(kept)

    store = made(folder, corpus, tmp_path / "s", layers="embed,1")
    for site in sites:
        assert torch.equal(store.read(site), truth[site][kept])
        counted = store.manifest["statistics"][str(site)]["non_finite"]
        assert counted == int((~finite[site]).sum())
        rest = kept.view(-1, 32).clone()
        rest[:, 0] = False
        mean = truth[site][rest.flatten()].double().mean(0)
        torch.testing.assert_close(store.mean(site), mean, rtol=1e-10, atol=1e-12)
    assert store.manifest["rows_left_out"] == int((~kept).sum())
    assert f"{int((~kept).sum()):,} of 6,016 tokens" in capsys.readouterr().err


def test_nothing_finite_is_a_failed_run(gpt2_run: Path, corpus: Path, tmp_path: Path) -> None:
    folder = huggingface_model(gpt2_run, tmp_path / "hf", poison=slice(None))
    with pytest.raises(RunFailed, match="nothing to store"):
        made(folder, corpus, tmp_path / "s", layers="0")
    assert Run.open(tmp_path / "s").status == "failed"


def test_the_model_goes_on_while_the_disk_is_written(
    gpt2_run: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cutaway.activations import collecting

    writing, another_pass = threading.Event(), threading.Event()
    write, capture = collecting.write_shard, forward.capture

    def waiting(path: Path, tensors: dict) -> dict:
        """Writes the first shard only once the model has read another batch meanwhile."""
        writing.set()
        assert another_pass.wait(PATIENCE), "the model stood still while a shard was written"
        return write(path, tensors)

    def watched(*arguments: object) -> object:
        captured = capture(*arguments)
        if writing.is_set():
            another_pass.set()
        return captured

    monkeypatch.setattr(collecting, "write_shard", waiting)
    monkeypatch.setattr(forward, "capture", watched)
    store = made(gpt2_run, corpus, tmp_path / "s")
    assert len(store.manifest["shards"]) == 10


def test_the_run_tells_what_it_came_from(gpt2_run: Path, corpus: Path, tmp_path: Path) -> None:
    made(gpt2_run, corpus, tmp_path / "s")
    run = Run.open(tmp_path / "s")
    assert (run.status, run.record.study, run.record.steps_done) == ("done", "activations", 375)
    assert run.record.parents[0]["weights_sha256"] == open_model(gpt2_run).reference.weights_sha256
    assert run.record.metrics["rows"] == 6_000


def test_what_it_takes_is_said_first(
    gpt2_run: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    made(gpt2_run, corpus, tmp_path / "s", store_dtype="int8")
    said = capsys.readouterr().err
    assert "6,000 tokens in contexts of 16, 2 sites × 16 in int8: 312.0 KB to write" in said
    assert "free; about" in said
    size = sum(path.stat().st_size for path in (tmp_path / "s" / "shards").iterdir())
    assert 312_000 <= size < 1.1 * 312_000


def test_a_disk_too_small_is_refused_before_anything_is_written(
    gpt2_run: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(open_model(gpt2_run), str(corpus), 6_000, None, bos=False)  # not what is refused here
    monkeypatch.setattr(files, "free_bytes", lambda _: 100_000)
    with pytest.raises(UserError, match=r"needed, 100\.0 KB free"):
        made(gpt2_run, corpus, tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "failure", [torch.OutOfMemoryError("CUDA"), RuntimeError("[enforce] DefaultCPUAllocator: no")]
)
def test_out_of_memory_halves_the_batch_once_and_says_so(
    gpt2_run: Path,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    failure: RuntimeError,
) -> None:
    plain = forward.capture
    limit = 4

    def tight(model: object, tokens: torch.Tensor, sites: object) -> object:
        if len(tokens) > limit:
            raise failure
        return plain(model, tokens, sites)

    monkeypatch.setattr(forward, "capture", tight)
    store = made(gpt2_run, corpus, tmp_path / "s")
    assert capsys.readouterr().err.count("batch_size halved from 8 to 4") == 1
    truth = states(open_model(gpt2_run), corpus, store.sites)
    for site in store.sites:
        torch.testing.assert_close(store.read(site), truth[site].flatten(0, 1))
    limit = 3
    with pytest.raises(UserError, match=r"out of memory at batch_size = 4.*smaller batch_size"):
        made(gpt2_run, corpus, tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_a_disk_that_fills_up_fails_the_run_and_can_be_resumed(
    gpt2_run: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cutaway.activations import collecting

    plain = collecting.write_shard

    def full(path: Path, tensors: dict) -> dict:
        if path.name == "00002.safetensors":
            raise OSError(28, "No space left on device")
        return plain(path, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(collecting, "write_shard", full)
        with pytest.raises(RunFailed, match=r"00002\.safetensors: cannot write: No space left"):
            made(gpt2_run, corpus, tmp_path / "s")
    assert Run.open(tmp_path / "s").status == "failed"
    assert ActivationStore(tmp_path / "s").rows == 2 * 40 * 16  # what is complete can be read
    extract(Run.open(tmp_path / "s").record.config, tmp_path / "s", resume=True)
    whole = made(gpt2_run, corpus, tmp_path / "whole")
    assert shards(tmp_path / "s") == shards(whole.path)


# -- killed and resumed --------------------------------------------------------------------------

MANY = {"tokens": 9_000, "layers": "embed,0", "shard_rows": 160}  # 71 shards of eight contexts


def arguments(model: Path, corpus: Path, out: Path) -> list[object]:
    """Of an extraction to many small shards."""
    size = ["--layers", "embed,0", "--tokens", 9_000, "--shard-rows", 160]
    return ["extract", model, "--data", corpus, *size, "--out", out]


def started(model: Path, corpus: Path, out: Path, *more: str) -> subprocess.Popen:
    return command(*arguments(model, corpus, out), *more)


def test_killed_then_stopped_by_ctrl_c_an_extraction_ends_with_the_same_files(
    gpt2_run: Path, corpus: Path, tmp_path: Path
) -> None:
    whole = made(gpt2_run, corpus, tmp_path / "whole", **MANY)
    out, draw = tmp_path / "killed", random.Random()
    place = draw.randrange(1, 30)
    stopped_writing(signal.SIGKILL, place, *arguments(gpt2_run, corpus, out))
    assert Run.open(out).status == "interrupted"
    before = len(json.loads((out / "manifest.json").read_text())["shards"])
    assert place - 1 <= before < len(whole.manifest["shards"])

    code, error = stopped_writing(signal.SIGINT, 5, "extract", "--resume", "--out", out)
    assert (code, "--resume goes on" in error) == (130, True)
    run = Run.open(out)
    assert (run.status, run.record.reason) == ("interrupted", "SIGINT")
    assert run.record.steps_done >= 8 * (before + 4)

    store = extract(run.record.config, out, resume=True)
    assert shards(out) == shards(whole.path)
    assert store.manifest == whole.manifest
    assert Run.open(out).status == "done"


def test_what_a_kill_leaves_half_done_is_written_again(
    gpt2_run: Path, corpus: Path, tmp_path: Path
) -> None:
    whole = made(gpt2_run, corpus, tmp_path / "whole")
    out = made(gpt2_run, corpus, tmp_path / "s").path
    manifest = json.loads((out / "manifest.json").read_text())
    manifest |= {"complete": False, "shards": manifest["shards"][:4]}
    (out / "manifest.json").write_text(json.dumps(manifest))  # it counts four shards,
    (out / "shards" / "00004.safetensors").write_bytes(b"half")  # a fifth is there,
    (out / "shards" / ".00005.safetensors.1.tmp").write_bytes(b"half")  # a sixth was begun
    with Run.resume(out) as run:
        run.save_record(status="running")
    store = extract(run.record.config, out, resume=True)
    assert shards(out) == shards(whole.path)
    assert store.manifest == whole.manifest


def test_an_extraction_killed_before_its_first_shard_starts_again(
    gpt2_run: Path, corpus: Path, tmp_path: Path
) -> None:
    whole = made(gpt2_run, corpus, tmp_path / "whole")
    out = tmp_path / "s"
    store = made(gpt2_run, corpus, out)
    record = Run.open(out).record
    for path in [out / "manifest.json", *(out / "shards").iterdir()]:
        path.unlink()
    with pytest.raises(UserError, match="--resume"):
        ActivationStore(out)
    with Run.resume(out) as run:  # as a kill leaves it
        run.save_record(status="running")
    store = extract(record.config, out, resume=True)
    assert shards(store.path) == shards(whole.path)


def test_resuming_what_is_done_changes_nothing(
    gpt2_run: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    made(gpt2_run, corpus, tmp_path / "s")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")}
    extract(Run.open(tmp_path / "s").record.config, tmp_path / "s", resume=True)
    assert "already done" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")}


def unfinished(model: Path, corpus: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """An extraction that failed in its third shard; its settings."""
    from cutaway.activations import collecting

    plain = collecting.write_shard
    with monkeypatch.context() as patch:
        patch.setattr(
            collecting,
            "write_shard",
            lambda path, tensors: os.stat("/nowhere") if "2" in path.name else plain(path, tensors),
        )
        with pytest.raises(RunFailed):
            made(model, corpus, out)
    return dict(Run.open(out).record.config)


def test_resuming_refuses_what_would_not_fit_together(
    gpt2_run: Path, llama: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s"
    model = huggingface_model(gpt2_run, tmp_path / "model")
    settings = unfinished(model, corpus, out, monkeypatch)
    with pytest.raises(UserError, match=r"tokens = 9000: .* was begun with 6000"):
        extract({**settings, "tokens": 9_000}, out, resume=True)
    huggingface_model(gpt2_run, model, poison=3)
    with pytest.raises(UserError, match="has changed since this extraction began"):
        extract(settings, out, resume=True)
    huggingface_model(gpt2_run, model)
    (out / "shards" / "00001.safetensors").unlink()
    with pytest.raises(UserError, match=r"00001\.safetensors: missing"):
        extract(settings, out, resume=True)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"layers": "7"}, r"layers 0 to 0"),
        ({"layers": "nose"}, "nose"),
        ({"layers": ""}, "names no site"),
        ({"model": "nowhere/at/all"}, "nowhere/at/all"),
        ({"data": "nowhere.txt"}, "no such file"),
        ({"tokens": 0}, "tokens = 0"),
        ({"tokens": -5}, "tokens = -5"),
        ({"tokens": "10X"}, "tokens = '10X'.*10M"),
        ({"tokens": "1.5"}, r"tokens = '1\.5'"),
        ({"tokens": "1,5M"}, "tokens = '1,5M'.*10M"),  # not 15 million
        ({"tokens": "10,00"}, "tokens = '10,00'"),
        ({"batch_size": True}, "batch_size = True"),
        ({"batch_size": 10**30}, "batch_size: expected a whole number below"),
        ({"store_dtype": "float16"}, "store_dtype = 'float16': float16 ends at 65504"),
        ({"dtype": "float16"}, "dtype = 'float16': float16 ends at 65504"),
        ({"store_dtype": "int4"}, "expected one of float32, bfloat16, int8"),
        ({"context_length": 64}, "context_length = 64: .* reads at most 16"),
        ({"context_length": 1}, "context_length = 1"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"batchsize": 8}, "no setting 'batchsize'; did you mean 'batch_size'"),
        ({"device": "tpu"}, "device = 'tpu'"),
        ({"step": "77"}, "77"),
    ],
)
def test_bad_settings_are_refused_in_one_line_and_leave_nothing(
    gpt2_run: Path, corpus: Path, tmp_path: Path, settings: dict, said: str
) -> None:
    given = {"model": str(gpt2_run), "data": str(corpus), "tokens": 500, **settings}
    with pytest.raises(UserError, match=said) as caught:
        extract(given, tmp_path / "s")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s").exists()


def test_a_folder_in_use_is_refused(gpt2_run: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds another run"):
        made(gpt2_run, corpus, gpt2_run)
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="not empty"):
        made(gpt2_run, corpus, tmp_path)
    with pytest.raises(UserError, match="holds a language run, not an extraction"):
        extract({"model": str(gpt2_run), "data": str(corpus)}, gpt2_run, resume=True)
    with pytest.raises(UserError, match="holds no run"):
        extract({"model": str(gpt2_run), "data": str(corpus)}, tmp_path / "new", resume=True)


def test_numbers_of_tokens_are_read_as_people_write_them() -> None:
    read = {
        text: ExtractionConfig(model="m", tokens=text).tokens
        for text in ("10M", "500k", "1_000_000", "2.5M", "1e4", 12, "7,000")
    }
    assert list(read.values()) == [10**7, 500_000, 10**6, 2_500_000, 10_000, 12, 7_000]
