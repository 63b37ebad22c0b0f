"""How fast token files are built, against the `tokenizers` library on texts already in memory.

Ours reads files, finds their encoding, splits, encodes, writes and flushes; the library only
encodes the same texts, in one call on all cores. Rounds alternate, so that a slow moment of the
machine strikes both. Usage: `python benchmarks/tokenising.py [--megabytes 30] [--rounds 5]`
"""

from __future__ import annotations

import argparse
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
    copies = -(-size // sum(len(text.encode()) for text in texts))
    texts *= copies
    (folder / "corpus").mkdir()
    for number, text in enumerate(texts):
        (folder / "corpus" / f"{number:06d}.txt").write_text(text, encoding="utf-8")
    megabytes = sum(len(text.encode()) for text in texts) / 1e6

    ours, theirs = [], []
    for turn in range(rounds):
        started = time.perf_counter()
        token_files(
            source(folder / "corpus"),
            tokenizer=str(folder / "tokenizer"),
            cache=folder / f"cache-{turn}",
        )
        ours.append(time.perf_counter() - started)
        started = time.perf_counter()
        encodings = tokenizer.encodings(texts)
        theirs.append(time.perf_counter() - started)
        del encodings
    ratios = [their / our for our, their in zip(ours, theirs)]
    print(f"{cpu_name()}, {threads()} threads; {megabytes:.0f} MB, {len(texts):,} documents")
    print(f"token files  {megabytes / statistics.median(ours):6.2f} MB/s")
    print(f"tokenizers   {megabytes / statistics.median(theirs):6.2f} MB/s")
    print(f"ratio        {statistics.median(ratios):6.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
