"""Text on two sides of a split is counted, against a count in loops, and announced where it matters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cutaway.text import repeats, source
from cutaway.text.token_files import token_files

WORDS = [f"{a}{b}{c}" for a in "bdkmprst" for b in "aeiou" for c in "lnrs"]


def prose(seed: int, words: int = 120) -> str:
    draw = np.random.default_rng(seed)
    return " ".join(draw.choice(WORDS, words))


def corpus(folder: Path, seeds: list[int]) -> Path:
    folder.mkdir()
    for number, seed in enumerate(seeds):
        (folder / f"{number:03d}.txt").write_text(prose(seed))
    return folder


def sides(train: list[list[int]], held: list[list[int]]) -> tuple[repeats.Side, repeats.Side]:
    made = []
    for documents in (train, held):
        starts = np.cumsum([0, *map(len, documents)])[:-1]
        made.append(repeats.side(np.concatenate(documents), starts))
    return tuple(made)


def counted(train: list[list[int]], held: list[list[int]]) -> tuple[float, int]:
    """Share and documents as defined, in loops."""

    def units(document: list[int]) -> list[tuple[tuple[int, ...], int]]:
        if len(document) < repeats.RUN:
            return [(tuple(document), len(document))]
        ends = range(repeats.RUN, len(document) + 1)
        return [(tuple(document[end - repeats.RUN : end]), 1) for end in ends]

    known = {unit for document in train for unit, _ in units(document)}
    met = total = documents = 0
    for document in held:
        found = [(unit in known, weight) for unit, weight in units(document)]
        mine = sum(weight for there, weight in found if there)
        all_ = sum(weight for _, weight in found)
        met, total, documents = met + mine, total + all_, documents + (mine >= all_ / 2)
    return met / total, documents


@pytest.mark.parametrize("block", [1 << 18, 64, 37])
@pytest.mark.parametrize("seed", range(3))
def test_what_two_sides_share_is_what_loops_count(monkeypatch, block, seed) -> None:
    monkeypatch.setattr(repeats, "_BLOCK", block)
    draw = np.random.default_rng(seed)
    train = [draw.integers(0, 50, draw.integers(1, 120)).tolist() for _ in range(12)]
    held = [draw.integers(0, 50, draw.integers(1, 120)).tolist() for _ in range(6)]
    held += [train[0], train[1][: len(train[1]) // 2] + held[0], train[2][1:], [7, 8], [7]]
    train += [[7, 8]]
    share, documents = counted(train, held)
    found = repeats.shared(*sides(train, held))
    assert found.share == pytest.approx(share)
    assert (found.documents, found.of) == (documents, len(held))


def test_a_large_side_gives_a_sample(monkeypatch) -> None:
    monkeypatch.setattr(repeats, "_HELD", 500)
    draw = np.random.default_rng(0)
    train = [draw.integers(0, 5000, 400).tolist() for _ in range(40)]
    held = [draw.integers(0, 5000, 400).tolist() for _ in range(20)] + train[:20]
    found = repeats.shared(*sides(train, held))
    assert found.share == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ([n % 3 for n in range(60)], "100% of the validation text is in training text too"),
        (list(range(60)), None),
    ],
)
def test_token_files_say_where_validation_repeats_training(tmp_path, capsys, seeds, said) -> None:
    folder = corpus(tmp_path / "corpus", seeds)
    settings = {"vocab_size": 300, "cache": tmp_path / "cache"}
    files = token_files(source(str(folder)), **settings)
    told = [line for line in files.notices if "training text" in line]
    assert len(told) == (said is not None)
    err = capsys.readouterr().err
    assert (said in told[0] and said in err) if said else "training text" not in err
    # looked for once; files from before that was looked for are looked at when they are opened
    kept = files.folder / "repeats.json"
    kept.write_text(json.dumps({"notices": ["as it is kept"]}))
    assert token_files(source(str(folder)), **settings).notices[-1] == "as it is kept"
    kept.unlink()
    assert token_files(source(str(folder)), **settings).notices == files.notices


def test_a_dictionary_says_that_its_held_out_text_was_trained_on(gpt2_run, tmp_path) -> None:
    from cutaway.activations.extraction import extract
    from cutaway.runs.folder import Run
    from cutaway.studies.train import train

    small = {"d_hidden": 32, "max_steps": 3, "batch_size": 64, "eval_tokens": 200, "target_l0": 4}
    for name, seeds in (("twice", [n % 3 for n in range(60)]), ("once", list(range(60)))):
        text = {"model": str(gpt2_run), "data": str(corpus(tmp_path / name, seeds))}
        text["tokens"] = 6000
        streamed = {"streaming": True, "layer": "0", **text, **small}
        train("dictionary", streamed, tmp_path / f"streamed-{name}")
        extract({**text, "layers": "0"}, tmp_path / f"store-{name}")
        stored = {"activations": str(tmp_path / f"store-{name}"), **small}
        train("dictionary", stored, tmp_path / f"stored-{name}")
        for kind in ("streamed", "stored"):
            notices = Run.open(tmp_path / f"{kind}-{name}").record.notices
            told = [line for line in notices if "held-out text is in training text too" in line]
            assert len(told) == (name == "twice"), notices
