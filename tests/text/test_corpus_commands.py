"""`cutaway corpus ls` and `cutaway corpus show`."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cutaway.base.errors import UserError
from cutaway.cli.corpus import ls, show


def test_ls_names_every_source(capsys) -> None:
    ls(json=True)
    rows = json.loads(capsys.readouterr().out)
    assert [row["source"].partition("[")[0] for row in rows] == [
        *("docstrings", "docstrings:all", "europarl", "wikipedia", "gutenberg", "truthfulqa"),
        "PATH",
    ]
    ls(csv=True)
    assert len(list(csv.DictReader(io.StringIO(capsys.readouterr().out)))) == 7
    ls()
    assert "wikipedia[:lang[:date]]" in capsys.readouterr().out
    with pytest.raises(UserError, match="choose one"):
        ls(json=True, csv=True)


def test_show_counts_documents_bytes_and_words(tmp_path: Path, capsys) -> None:
    (tmp_path / "a.txt").write_text("één twee\n\ndrie", encoding="utf-8")
    (tmp_path / "b.txt").write_text("four")
    show(str(tmp_path), json=True)
    (row,) = json.loads(capsys.readouterr().out)
    assert row == {
        "source": str(tmp_path),
        "documents": 2,
        "bytes": 20,
        "words": 4,
        "begins": "één twee drie",
    }
    show(str(tmp_path), documents=1)
    assert "één twee drie" in capsys.readouterr().out


def test_show_counts_tokens_when_asked(tmp_path: Path, capsys) -> None:
    for name in "abcdefghij":
        (tmp_path / f"{name}.txt").write_text(f"{name} one two three four five " * 20)
    show(str(tmp_path), vocab_size=280, json=True)
    (row,) = json.loads(capsys.readouterr().out)
    assert row["tokens"] == row["train_tokens"] + row["validation_tokens"]
    assert row["bytes_per_token"] == pytest.approx(row["bytes"] / row["tokens"])
    assert row["tokenizer"] == "bpe-280"
    with pytest.raises(UserError, match="vocab_size goes with a trained tokenizer"):
        show(str(tmp_path), tokenizer="gpt2", vocab_size=280)
    with pytest.raises(UserError, match="documents = 0"):
        show(str(tmp_path), documents=0)


def test_the_text_room_and_its_commands_load_nothing_heavy() -> None:
    code = """
import sys
import cutaway.cli.corpus, cutaway.text.sources, cutaway.text.token_files, cutaway.text.windows
import cutaway.text.hub, cutaway.text.files, cutaway.text.docstrings
heavy = {"torch", "transformers", "datasets", "pandas", "pyarrow", "matplotlib", "huggingface_hub"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
