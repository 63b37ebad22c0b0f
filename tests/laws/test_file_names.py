"""Law: file names that are no UTF-8 are shown with escapes, and what bears them works like others."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from conftest import GROK, command, sentences

ODD = os.fsdecode(b"caf\xe9")


def said(*arguments: object, cwd: Path) -> str:
    process = command(*arguments, cwd=cwd)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return out + err


@pytest.fixture(autouse=True)
def _takes_such_names(tmp_path: Path) -> None:
    try:
        (tmp_path / ODD).mkdir()
        (tmp_path / ODD).rmdir()
    except OSError:
        pytest.skip("this file system holds UTF-8 names only")


def test_a_run_of_such_a_name(tmp_path: Path) -> None:
    from cutaway.runs.folder import Run

    settings = tmp_path / f"{ODD}.yaml"
    settings.write_text(json.dumps({"study": "grokking", **GROK, "epochs": 20}))
    with Run.create(tmp_path / "runs" / "plain", study="x", config={}) as run:
        run.append([{"step": 0, "loss": 1.0}])
        run.finish({})
    said("train", settings, "--out", f"runs/{ODD}", cwd=tmp_path)
    said("train", f"runs/{ODD}", "--extra-steps", 5, cwd=tmp_path)
    (tmp_path / "runs" / ODD / f"notes-{ODD}").write_text("mine")
    assert r"not compared: notes-caf\xe9" in said("runs", "verify", ODD, cwd=tmp_path)
    listed = json.loads(said("runs", "ls", "--json", cwd=tmp_path))
    assert {row["run"] for row in listed} == {r"caf\xe9", "plain"}
    assert said("runs", "show", r"caf\xe9", "--csv", cwd=tmp_path)
    answer = said(
        "runs", "sql", "SELECT run, max(step) FROM history GROUP BY 1", "--csv", cwd=tmp_path
    )
    assert "plain,0" in answer
    assert r"caf\xe9,25" in answer


def test_text_of_such_names(cutaway, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    for number in range(3):
        (tmp_path / "corpus" / f"{number}{ODD}.txt").write_text(sentences(number, 20))
    code, out, err = cutaway("corpus", "show", "corpus", "--json")
    assert code == 0, err
    assert json.loads(out)[0]["documents"] == 3


def test_a_root_of_such_a_name_is_refused_for_sql_in_one_line(cutaway, tmp_path: Path) -> None:
    (tmp_path / ODD).mkdir()
    code, _, err = cutaway("runs", "sql", "SELECT 1", "--runs", tmp_path / ODD)
    assert (code, err.count("\n")) == (2, 1)
    assert r"caf\xe9: SQL needs" in err


def test_a_language_run_of_such_a_name_keeps_its_tokenizer(cutaway, gpt2_run, tmp_path) -> None:
    shutil.copytree(gpt2_run, tmp_path / ODD)
    code, _, err = cutaway("sample", tmp_path / ODD, "--length", 3)
    assert code == 0, err


def test_a_parquet_file_of_such_a_name(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [sentences(number, 2) for number in range(20)]
    with open(tmp_path / f"{ODD}.parquet", "wb") as file:
        pq.write_table(pa.table({"text": texts, "label": ["a", "b"] * 10}), file)
    assert "20" in said("corpus", "show", f"{ODD}.parquet", cwd=tmp_path)


def test_a_pipeline_that_could_not_record_such_a_name_extracts_nothing(
    cutaway, gpt2_run, corpus, tmp_path: Path
) -> None:
    code, _, err = cutaway("sae", "pipeline", gpt2_run, "--data", corpus, "--out", ODD)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(r"cutaway: --out caf\xe9")
    assert list(tmp_path.iterdir()) == []
