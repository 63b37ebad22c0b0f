"""`cutaway extract` from a command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cutaway.activations.store import ActivationStore

Cutaway = Callable[..., tuple[int, str, str]]


def test_extract_writes_a_store_and_shows_its_sites(
    cutaway: Cutaway, gpt2_run: Path, corpus: Path, tmp_path: Path
) -> None:
    code, out, err = cutaway(
        *("extract", gpt2_run, "--data", corpus, "--layers", "all", "--tokens", "2k"),
        *("--out", "acts", "--dtype", "bfloat16", "--batch-size-extract", 4, "--json"),
    )
    assert code == 0, err
    (row,) = json.loads(out)
    store = ActivationStore(tmp_path / "acts")
    assert (row["site"], row["rows"], row["dtype"]) == ("residual.0", 2_000, "bfloat16")
    assert row["mean_norm"] == store.mean_norm("0")
    assert 0 < row["relative_error"] < 1e-4
    assert store.manifest["batch_size"] == 4
    assert "to write" in err


def test_extract_resumes_with_nothing_but_the_folder(
    cutaway: Cutaway, gpt2_run: Path, corpus: Path
) -> None:
    cutaway("extract", gpt2_run, "--data", corpus, "--tokens", "2k", "--out", "acts")
    code, out, err = cutaway("extract", "--resume", "--out", "acts")
    assert (code, "already done" in err, "residual.0" in out) == (0, True, True)


def test_the_run_is_listed_among_runs(cutaway: Cutaway, gpt2_run: Path, corpus: Path) -> None:
    cutaway("extract", gpt2_run, "--data", corpus, "--tokens", "2k", "--out", "runs/acts")
    _, out, _ = cutaway("runs", "ls", "--json")
    (row,) = json.loads(out)
    assert (row["run"], row["study"], row["status"]) == ("acts", "activations", "done")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--layers", "9"], "9"),
        (["--tokens", "10X"], "tokens = '10X'"),
        (["--tokens", "0"], "tokens = '0'"),
        (["--dtype", "float16"], "65504"),
        (["--batch-size", "0"], "batch_size = 0"),
        (["--bos", "--context-length", "1"], "context_length = 1"),
        (["--json", "--csv"], "choose one"),
        (["--resume"], "holds no run"),
    ],
)
def test_bad_requests_end_with_one_line_and_exit_2(
    cutaway: Cutaway, gpt2_run: Path, corpus: Path, more: list[str], said: str
) -> None:
    base = ["extract", gpt2_run, "--data", corpus, "--out", "acts"]
    code, out, err = cutaway(*base, *more)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("cutaway: ")
    assert said in err


def test_a_place_and_a_model_must_be_named(cutaway: Cutaway, gpt2_run: Path) -> None:
    assert "--out FOLDER" in cutaway("extract", gpt2_run)[2]
    assert "name a model" in cutaway("extract", "--out", "acts")[2]
