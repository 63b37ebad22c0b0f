"""Token files: what is in them, and that they survive what happens to files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import PATIENCE
from cutaway.base.errors import UserError
from cutaway.text import source, train
from cutaway.text.files import FilesSource
from cutaway.text.token_files import TokenFiles, token_files

WORDS = "the cat sat on a mat and saw that the dog was not there".split()  # noqa: SIM905


def write_corpus(folder: Path, documents: int = 30) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(documents):
        words = [WORDS[(number * k + k * k) % len(WORDS)] for k in range(60 + 7 * number)]
        (folder / f"{number:03d}.txt").write_text(f"Nr {number}. " + " ".join(words) + ".\n")
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")


def side_texts(ids: np.ndarray, files: TokenFiles) -> list[str]:
    ends = np.flatnonzero(ids == files.tokenizer.end_of_text)
    assert ends[-1] == len(ids) - 1, "each document is followed by end_of_text"
    return [files.tokenizer.decode(part[part != 0]) for part in np.split(ids, ends[:-1] + 1)]


def test_the_files_hold_every_document_once_in_order(corpus: Path) -> None:
    files = token_files(source(corpus), vocab_size=300)
    train, validation = side_texts(files.train, files), side_texts(files.validation, files)
    everything = [document.text for document in source(corpus).documents()]
    assert sorted(train + validation) == sorted(everything)
    assert train == [text for text in everything if text in train]
    assert (files.train_documents, files.validation_documents) == (len(train), len(validation))
    assert files.train_bytes == sum(len(text.encode()) for text in train)
    assert files.validation_bytes == sum(len(text.encode()) for text in validation)
    assert len(files.validation) / (len(files.train) + len(files.validation)) == pytest.approx(
        0.1, abs=0.01
    )
    assert files.train.dtype == np.uint16
    assert not files.train.flags.writeable


def test_ids_equal_those_of_the_whole_text_encoded_at_once(tmp_path: Path, shared_data) -> None:
    """A novel among many short texts: cut into many parts on the way, and both sides interleaved."""
    novel = (shared_data / "gutenberg" / "en" / "carroll-alice.txt").read_text()
    records = [{"text": novel}, *({"text": p} for p in novel.split("\n\n")[:400] if p.strip())]
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records))
    files = token_files(source(path), tokenizer=str(shared_data / "gpt2-bpe"))
    whole = [files.tokenizer.encode(record["text"]) for record in records]
    end = files.tokenizer.end_of_text
    for ids, count in (
        (files.train, files.train_documents),
        (files.validation, files.validation_documents),
    ):
        parts = np.split(ids, np.flatnonzero(ids == end) + 1)[:-1]
        assert len(parts) == count
        assert all(part[:-1].tolist() in whole for part in parts)
    assert files.train_documents + files.validation_documents == len(records)


def test_the_tokenizer_is_trained_on_training_documents_only(corpus: Path) -> None:
    files = token_files(source(corpus), vocab_size=400)
    seen, everything = side_texts(files.train, files), [d.text for d in source(corpus).documents()]
    assert files.tokenizer.sha256() == train(seen, 400).sha256()
    assert files.tokenizer.sha256() != train(everything, 400).sha256()


def test_a_second_call_opens_what_the_first_built(corpus: Path, capsys) -> None:
    first = token_files(source(corpus), vocab_size=300)
    written = (first.folder / "train.bin").stat().st_mtime_ns
    second = token_files(source(corpus), vocab_size=300)
    assert second.folder == first.folder
    assert (second.folder / "train.bin").stat().st_mtime_ns == written
    assert second.tokenizer.sha256() == first.tokenizer.sha256()
    assert second.fingerprint == first.fingerprint


def test_other_content_or_settings_are_other_files(corpus: Path, shared_data) -> None:
    folders = {
        token_files(source(corpus), vocab_size=300).folder,
        token_files(source(corpus), vocab_size=301).folder,
        token_files(source(corpus), vocab_size=300, validation_fraction=0.2).folder,
        token_files(source(corpus), tokenizer=str(shared_data / "gpt2-bpe")).folder,
    }
    (corpus / "000.txt").write_text("Another beginning.")
    folders.add(token_files(source(corpus), vocab_size=300).folder)
    assert len(folders) == 5


def truncate(folder: Path) -> None:
    os.truncate(folder / "train.bin", 10)


def remove(folder: Path) -> None:
    (folder / "validation.bin").unlink()


def tear(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"format": 1')


def swap_tokenizer(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace("endoftext", "endofbook"))


@pytest.mark.parametrize("damage", [truncate, remove, tear, swap_tokenizer])
def test_damaged_files_are_built_again_with_a_notice(corpus: Path, damage, capsys) -> None:
    first = token_files(source(corpus), vocab_size=300)
    before = np.array(first.train)
    damage(first.folder)
    again = token_files(source(corpus), vocab_size=300)
    assert (again.train == before).all()
    assert "damaged token files, built again" in capsys.readouterr().err


BUILD = """
import sys
from cutaway.text import source
from cutaway.text.token_files import token_files
files = token_files(source(sys.argv[1]), vocab_size=300, cache=sys.argv[2])
print(files.folder, int(files.train.sum()), int(files.validation.sum()))
"""


def test_processes_that_build_the_same_at_once_agree(corpus: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILD, str(corpus), str(tmp_path / "cache")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = {process.communicate(timeout=PATIENCE)[0] for process in running}
    assert [process.returncode for process in running] == [0] * 4
    assert len(said) == 1
    left = [path.name for path in (tmp_path / "cache" / "tokens").iterdir()]
    assert len(left) == 2, "the folder and its lock"


def test_a_killed_build_leaves_nothing_that_counts(corpus: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    key = token_files(source(corpus), vocab_size=300, cache=tmp_path / "other").folder.name
    torn = cache / "tokens" / f".{key}.99999.tmp"
    torn.mkdir(parents=True)
    (torn / "train.bin").write_bytes(b"half")
    files = token_files(source(corpus), vocab_size=300, cache=cache)
    assert len(files.train) > 100
    assert not torn.exists()


def test_a_single_document_is_said_to_be_cut(tmp_path: Path, capsys) -> None:
    (tmp_path / "one.txt").write_text("A paragraph of words.\n\n" * 100)
    files = token_files(source(tmp_path / "one.txt"), vocab_size=300)
    assert (files.train_documents, files.validation_documents) == (1, 1)
    assert "a single document" in files.notices[0]
    assert "a single document" in capsys.readouterr().err
    assert files.train_bytes + files.validation_bytes == 2300


def test_a_few_giants_among_many_documents_are_mentioned(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    texts = ["word " * 50_000, *["short text"] * 300]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    files = token_files(source(path), vocab_size=260)
    assert "a few documents are much larger" in files.notices[0]


def test_a_large_vocabulary_takes_32_bits(corpus: Path, tmp_path: Path) -> None:
    import tokenizers

    vocabulary = {"[UNK]": 0, "</s>": 1, "the": 70_000, "cat": 70_001}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "[UNK]"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model.save(str(tmp_path / "tokenizer.json"))
    files = token_files(source(corpus), tokenizer=str(tmp_path / "tokenizer.json"))
    assert files.train.dtype == np.uint32
    assert set(np.unique(files.train)) == {0, 1, 70_000, 70_001}


def test_settings_out_of_range_are_refused_before_any_reading(corpus: Path) -> None:
    (corpus / "zzz.txt").write_bytes(b"\0 never reached")
    for options, complaint in (
        ({"vocab_size": 256}, "vocab_size = 256: expected at least 257"),
        ({"vocab_size": None}, "vocab_size = None"),
        ({"validation_fraction": 0.0}, "validation_fraction = 0.0"),
        ({"tokenizer": "./none"}, "tokenizer = './none'"),
    ):
        with pytest.raises(UserError) as caught:
            token_files(source(corpus), **options)
        assert complaint in str(caught.value)


def test_an_empty_corpus_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(UserError, match="no text in it"):
        token_files(source(tmp_path), cache=tmp_path / "cache")
    assert not list((tmp_path / "cache" / "tokens").glob("*[!k]"))


def test_a_cache_that_cannot_be_written_is_named(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="is a file, not a folder"):
        token_files(source(corpus), vocab_size=300, cache=tmp_path / "file" / "cache")


class Stopping(FilesSource):
    """Ends in the middle the way a lost network does, once the tokenizer is trained."""

    readings = 0

    def documents(self):
        self.readings += 1
        for number, document in enumerate(super().documents()):
            if self.readings == 3 and number == 20:
                raise UserError("wikipedia: reading stopped after 20 rows: connection lost")
            yield document


def test_a_source_that_stops_in_the_middle_leaves_no_files(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reading stopped after 20 rows"):
        token_files(Stopping(corpus), vocab_size=300, cache=tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache" / "tokens").iterdir()] == [".lock"]


PEAK = """
import resource, sys, threading, time
from cutaway.text import source
from cutaway.text import token_files as module
import pyarrow  # what is loaded anyway is not the build's

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

before, peak = resident(), 0
def watch():
    global peak
    while True:
        peak = max(peak, resident())
        time.sleep(0.005)
threading.Thread(target=watch, daemon=True).start()
from cutaway.text.token_files import token_files
files = token_files(source(sys.argv[1]), tokenizer=sys.argv[3], vocab_size=2000, cache=sys.argv[2])
print((peak - before) // 10**6, len(files.train) + len(files.validation))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    """A file of 10 MB and one of 60 MB need the same, far under their own size."""
    tokenizer = tmp_path / "tokenizer"
    paragraph = " ".join(WORDS) + " " + " ".join(f"word{k}" for k in range(40)) + "\n\n"
    (tmp_path / "small.txt").write_text(paragraph * 500)
    token_files(source(tmp_path / "small.txt"), vocab_size=1000).tokenizer.save(tokenizer)
    grown = []
    for megabytes in (10, 60):
        path = tmp_path / f"{megabytes}.txt"
        path.write_text(paragraph * (megabytes * 10**6 // len(paragraph)))
        command = [sys.executable, "-c", PEAK, path, tmp_path / "cache", tokenizer]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
        growth, tokens = map(int, done.stdout.split())
        assert tokens > megabytes * 10**5
        grown.append(growth)
    assert grown[1] < 400
    assert grown[1] < grown[0] + 40, f"{grown} MB"
