"""`cutaway probe data` and `cutaway probe inspect` from a command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cutaway.probes.data.examples import ProbeData
from cutaway.text.tokenizers import Tokenizer

Cutaway = Callable[..., tuple[int, str, str]]


@pytest.fixture
def made(cutaway: Cutaway, gpt2_run: Path, corpus: Path) -> Path:
    """Probe data of the small corpus in `data`."""
    code, _, err = cutaway("probe", "data", gpt2_run, "--data", corpus, "--out", "data")
    assert code == 0, err
    return Path("data")


@pytest.fixture
def conll(tmp_path: Path) -> Path:
    lines = [f"{'Ada B-PER' if n % 2 else 'Rome B-LOC'}\nsees O\n{n} O\n" for n in range(60)]
    (tmp_path / "small.conll").write_text("\n".join(lines))
    return tmp_path / "small.conll"


def test_data_writes_windows_as_long_as_the_model_reads(
    cutaway: Cutaway, gpt2_run: Path, corpus: Path
) -> None:
    code, out, err = cutaway(
        *("probe", "data", gpt2_run, "--data", corpus, "--out", "d", "--json"),
        *("--max-chunks-per-class", 100, "--max-evaluation", 900, "--seed", 3),
    )
    assert code == 0, err
    rows = json.loads(out)
    assert [row["examples"] for row in rows[:2]] == [100, 100]
    assert rows[1]["class"] == " the"
    assert "context_length = 16: " in err
    data = ProbeData.load("d")
    assert (data.context_length, data.seed, data.task) == (16, 3, "next")
    assert data.tokenizer.sha256() == Tokenizer.load(gpt2_run / "tokenizer").sha256()
    metadata = json.loads(Path("d/metadata.json").read_text())
    assert metadata["counts"]["train"] == {"other": 100, " the": 100}
    assert metadata["prevalence"][1] == rows[1]["natural"]


def test_a_tokenizer_and_a_model_folder_will_do(
    cutaway: Cutaway, gpt2_run: Path, corpus: Path, tiny_folder: Callable[[str], Path]
) -> None:
    code, _, err = cutaway(
        *("probe", "data", gpt2_run / "tokenizer", "--data", corpus, "--target-token", " r"),
        *("--context-length", 20, "--predict-current", "--out", "a"),
    )
    assert code == 0, err
    assert (ProbeData.load("a").task, ProbeData.load("a").target) == ("current", " r")
    code, _, err = cutaway("probe", "data", tiny_folder("llama"), "--data", corpus, "--out", "b")
    assert (code, ProbeData.load("b").context_length) == (0, 24), err


def test_data_of_labels(cutaway: Cutaway, gpt2_run: Path, conll: Path) -> None:
    code, out, err = cutaway(
        "probe", "data", gpt2_run, "--labels", conll, "--label", "PER", "--out", "d", "--json"
    )
    assert code == 0, err
    assert {row["class"] for row in json.loads(out)} == {"O", "PER"}
    assert ProbeData.load("d").task == "labels"


def test_inspect_shows_balance_and_samples(cutaway: Cutaway, made: Path) -> None:
    code, out, err = cutaway("probe", "inspect", made, "--num-samples", 2)
    assert code == 0, err
    assert "next token is ' the'" in out
    assert out.count("→") == 4
    code, out, _ = cutaway("probe", "inspect", made / "test.safetensors", "--json")
    found = json.loads(out)
    assert {row["part"] for row in found["samples"]} == {"test"}
    assert len(found["samples"]) == 10


def test_inspect_ends_with_1_where_a_document_is_in_two_parts(cutaway: Cutaway, made: Path) -> None:
    data = ProbeData.load(made)
    test = data.parts["test"]
    document = test.document.clone()
    document[:5] = data.parts["train"].document[0]
    leaky = replace(data, parts={**data.parts, "test": replace(test, document=document)})
    leaky.save("leaky")
    code, out, err = cutaway("probe", "inspect", "leaky", "--json")
    assert code == 1
    assert "1 documents in train and in test" in err
    assert json.loads(out)["problems"][0]["severity"] == "error"


def test_a_language_is_part_of_the_source(cutaway: Cutaway, gpt2_run: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from conftest import sentences

    folder = tmp_path / "hub" / "data"
    folder.mkdir(parents=True)
    books = pa.table({"id": ["1", "2", "3"], "text": [sentences(n, 90) for n in range(3)]})
    pq.write_table(books, folder / "fr-00000-of-00001.parquet")
    local = f"gutenberg@{tmp_path / 'hub'}"
    code, _, err = cutaway(
        "probe", "data", gpt2_run, "--data", local, "--language", "fr", "--out", "d"
    )
    assert code == 0, err
    assert ProbeData.load("d").source["data"] == local.replace("gutenberg", "gutenberg:fr")
    code, _, err = cutaway("probe", "data", gpt2_run, "--data", local, "--out", "e")
    assert (code, "data/en" in err or "no en" in err) == (2, True)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--target-token", " the cat"], "expected one"),
        (["--target-token", ""], "target = ''"),
        (["--context-length", 17], "context_length = 17: "),
        (["--train-ratio", 0.4], "train_ratio = 0.4"),
        (["--max-texts", 0], "max_texts = 0"),
        (["--language", "fr"], "has no languages; wikipedia, gutenberg have"),
        (["--label", "PER"], "--label goes with --labels"),
        (["--labels", "nothing.csv"], "--data does not go with --labels"),
        (["--json", "--csv"], "choose one"),
    ],
)
def test_data_refuses_in_one_line_and_writes_nothing(
    cutaway: Cutaway, gpt2_run: Path, corpus: Path, more: list, said: str
) -> None:
    code, out, err = cutaway("probe", "data", gpt2_run, "--data", corpus, "--out", "d", *more)
    assert (code, out) == (2, "")
    assert said in err
    assert err.splitlines()[-1].startswith("cutaway: ")
    assert not Path("d").exists()


def test_what_holds_no_tokenizer_or_no_data_is_refused(
    cutaway: Cutaway, grokking_run: Path, made: Path, corpus: Path
) -> None:
    code, _, err = cutaway("probe", "data", grokking_run, "--data", corpus, "--out", "d")
    assert (code, "has no tokenizer" in err) == (2, True)
    code, _, err = cutaway("probe", "inspect", corpus)
    assert (code, "no probe data" in err) == (2, True)
    code, _, err = cutaway("probe", "data", "runs/nothing", "--data", corpus)
    assert (code, "no run of this name" in err) == (2, True)
    before = sorted(made.iterdir())
    code, _, err = cutaway("probe", "data", grokking_run, "--data", corpus, "--out", made)
    assert (code, "not empty" in err) == (2, True)
    assert sorted(made.iterdir()) == before
