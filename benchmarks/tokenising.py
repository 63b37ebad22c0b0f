"""How fast token files are built, against the `tokenizers` library on texts already in memory.

Ours reads files, finds their encoding, splits, encodes, writes and flushes; the library only
encodes the same texts, in one call on all cores. Rounds alternate, so that a slow moment of the
machine strikes both. Usage: `python benchmarks/tokenising.py [--megabytes 30] [--rounds 5]`
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from cutaway.base.hardware import cpu_name, threads
from cutaway.text import source, train
from cutaway.text.token_files import token_files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vocab-size", type=int, default=8192)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), options.megabytes * 10**6, options.rounds, options.vocab_size)


def run(folder: Path, size: int, rounds: int, vocab_size: int) -> None:
    texts = [document.text for document in source("docstrings").documents()]
    tokenizer = train(texts, vocab_size)
    tokenizer.save(folder / "tokenizer")
    texts *= -(-size // sum(len(text.encode()) for text in texts))
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{cpu_name()}, {threads()} threads; {megabytes:.0f} MB, {len(texts):,} documents")
    for layout, write in LAYOUTS.items():
        place = folder / layout.replace(" ", "-")
        place.mkdir()
        write(place, texts)
        ours, theirs, with_ids = [], [], []
        for turn in range(rounds):
            started = time.perf_counter()
            cache = folder / f"cache-{layout}-{turn}"
            token_files(source(place), tokenizer=str(folder / "tokenizer"), cache=cache)
            ours.append(time.perf_counter() - started)
            started = time.perf_counter()
            encodings = tokenizer.encodings(texts)
            theirs.append(time.perf_counter() - started)
            ids = [encoding.ids for encoding in encodings]
            with_ids.append(time.perf_counter() - started)
            del encodings, ids
        ratio, usable = (_ratios(ours, peer) for peer in (theirs, with_ids))
        print(f"{layout}")
        print(f"  token files               {megabytes / statistics.median(ours):6.2f} MB/s")
        print(
            f"  tokenizers, encoding      {megabytes / statistics.median(theirs):6.2f} MB/s, ratio {ratio}"
        )
        print(
            f"  tokenizers, and the ids   {megabytes / statistics.median(with_ids):6.2f} MB/s, ratio {usable}"
        )


def one_file(folder: Path, texts: list[str]) -> None:
    """All documents in one JSONL file, as corpora are published."""
    lines = (json.dumps({"text": text}, ensure_ascii=False) for text in texts)
    (folder / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")


def books(folder: Path, texts: list[str]) -> None:
    """A hundred documents to a text file, as novels are."""
    for number in range(0, len(texts), 100):
        text = "\n\n".join(texts[number : number + 100])
        (folder / f"{number:06d}.txt").write_text(text, encoding="utf-8")


def small_files(folder: Path, texts: list[str]) -> None:
    """Each document, three kilobytes on average, in a file of its own: the hardest for us."""
    for number, text in enumerate(texts):
        (folder / f"{number:06d}.txt").write_text(text, encoding="utf-8")


LAYOUTS = {"one JSONL file": one_file, "books": books, "small files": small_files}


def _ratios(ours: list[float], theirs: list[float]) -> str:
    each = [their / our for our, their in zip(ours, theirs, strict=True)]
    return f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"


if __name__ == "__main__":
    main()
