"""Sparse probing of one dictionary on many tasks, beside the time it takes to encode their texts.

    python benchmarks/probing.py [--data SOURCE ...] [--width 48 256] [--tasks 8] [--texts 5000]
        [--characters 90] [--rounds 2] [--threads 2] [--quick]

GPT-2-shaped models with random weights, a vocabulary learnt from the texts, and a JumpReLU
dictionary after the last block but one, L0 32. Every task has texts of its own, passages of SOURCE;
the label is whether a letter is more frequent in one than in most, so that probes have something to
learn. A round takes the same texts, in turns, through (1) the model and the dictionary's encoder,
batch by batch, nothing kept, and (2) `sparse_probing` with its four baselines, which tokenises,
encodes, and fits the probes. Passages are short: longer ones cost (1) more and the probes nothing.
Wall seconds and CPU seconds, the least of the rounds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from cutaway.base import hardware
from cutaway.base.errors import UserError
from cutaway.dictionaries.architectures.registry import build
from cutaway.dictionaries.model.dictionary import Dictionary, DictionaryShape
from cutaway.evaluations.suite.encoding import BATCH_TOKENS, TextReader, sample_states
from cutaway.evaluations.suite.sparse_probing import sparse_probing
from cutaway.labelled.files import passages
from cutaway.labelled.texts import LabelledTexts
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model
from cutaway.text.sources import source

LETTERS = "eanosrhlditucm"
L0, VOCABULARY, LENGTH = 32, 4096, 128


def different_passages(sources: list[str], characters: int) -> Iterator[tuple[str, str]]:
    """Passages and the document each is from, none twice."""
    seen: set[str] = set()
    for name in sources:
        for document in source(name).documents():
            for number, passage in enumerate(passages(document.text, characters)):
                if passage not in seen:
                    seen.add(passage)
                    yield passage, f"{name} {document.id} {number // 10}"


def tasks_of(given: argparse.Namespace) -> list[LabelledTexts]:
    found = list(different_passages(given.data, given.characters))
    wanted = given.tasks * given.texts
    if len(found) < wanted:
        raise UserError(f"data: {len(found)} different passages, and {wanted} are needed")
    order = np.random.default_rng(0).permutation(len(found))[:wanted]
    made = []
    for number, rows in enumerate(np.split(order, given.tasks)):
        texts, groups = zip(*(found[row] for row in rows), strict=True)
        letter = LETTERS[number % len(LETTERS)]
        share = np.array([text.lower().count(letter) / len(text) for text in texts])
        labels = ["many" if more else "few" for more in share > np.median(share)]
        made.append(LabelledTexts(f"{number}: {letter}", texts, labels, groups))
    return made


def make_model(folder: Path, width: int, layers: int, texts: list[str]) -> Model:
    """A random GPT-2 in Hugging Face's layout with a byte-level BPE of the texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    heads = max(1, width // 64)
    shape = {"n_layer": layers, "n_head": heads, "n_embd": width, "n_positions": LENGTH}
    GPT2LMHeadModel(GPT2Config(**shape, vocab_size=VOCABULARY)).save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts[:5000], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return open_model(str(folder), dtype="float32")


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - used


def measure(given: argparse.Namespace, width: int, tasks: list[LabelledTexts]) -> None:
    texts = [text for task in tasks for text in task.texts]
    layers = 2 if width < 128 else 6
    site = f"residual.{layers - 2}"
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder), width, layers, texts)
    features = 5 * width if width < 128 else 16 * width
    dictionary: Dictionary = build(DictionaryShape("jumprelu", width, features))
    dictionary.start(sample_states(dictionary, model, texts, site=site), L0)
    reader = TextReader(dictionary, model, site, None, BATCH_TOKENS)
    ids: list[list[int]] = []
    tokenising = timed(lambda: ids.extend(reader.tokenised(texts)))

    @torch.no_grad()
    def encode() -> None:
        for _, x, _ in reader.batches(ids):
            dictionary.encode_sparse(x)

    def probe() -> None:
        sparse_probing(dictionary, model, site, tasks)

    for _, x, _ in reader.batches(ids[:500]):  # what is slow the first time only
        dictionary.encode_sparse(x)
    each = [(timed(encode), timed(probe)) for _ in range(given.rounds)]
    (alone, alone_used), (whole, whole_used) = (
        tuple(min(one[side][clock] for one in each) for clock in range(2)) for side in range(2)
    )
    count = sum(map(len, ids))
    print(f"\nwidth {width}, {layers} layers, {site}, {features:,} features")
    print(f"{len(tasks)} tasks of {given.texts:,} texts, {count / len(texts):.1f} tokens a text")
    with_words = alone + tokenising[0], alone_used + tokenising[1]
    print(f"{'':34}{'wall s':>9}{'CPU s':>9}")
    print(
        f"{'model and dictionary':34}{alone:9.2f}{alone_used:9.2f}   ({count / alone:,.0f} tokens/s)"
    )
    print(f"{'tokenising':34}{tokenising[0]:9.2f}{tokenising[1]:9.2f}")
    print(f"{'sparse probing':34}{whole:9.2f}{whole_used:9.2f}")
    print(f"{'over model and dictionary':34}{whole / alone:9.2f}{whole_used / alone_used:9.2f}")
    print(
        f"{'over encoding, tokenising included':34}{whole / with_words[0]:9.2f}"
        f"{whole_used / with_words[1]:9.2f}"
    )
    ratios = "  ".join(f"{two[0] / one[0]:.2f}" for one, two in each)
    print(f"{'of each round, the first ratio':34}   {ratios}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=["docstrings:all"], help="sources of text")
    parser.add_argument("--width", type=int, nargs="+", default=[48, 256])
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--texts", type=int, default=5000, help="of each task")
    parser.add_argument("--characters", type=int, default=90, help="of a text, about")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="does it run")
    given = parser.parse_args()
    if given.quick:
        given.data, given.tasks, given.texts, given.rounds = ["docstrings"], 2, 300, 1
    torch.set_num_threads(given.threads)
    hardware.keep_freed_memory()
    tasks = tasks_of(given)
    for width in given.width:
        measure(given, width, tasks)


if __name__ == "__main__":
    main()
