"""Hub corpora, from local folders in the hub's layout, and what is said where the hub is out of reach."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import PATIENCE
from cutaway.base.errors import UserError
from cutaway.text import source


def write(root: Path, name: str, rows: list[dict]) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), root / name)


def pairs(first: int, count: int) -> list[dict]:
    return [
        {"translation": {"en": f"line {k}", "fr": f"ligne {k}"}}
        for k in range(first, first + count)
    ]


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """Four small repositories with the columns and file names of the real ones."""
    europarl = tmp_path / "Helsinki-NLP" / "europarl"
    write(europarl, "en-fr/train-00000-of-00002.parquet", pairs(0, 300))
    write(europarl, "en-fr/train-00001-of-00002.parquet", pairs(300, 150))
    (europarl / "README.md").write_text(
        "---\nconfigs:\n- config_name: en-fr\n  data_files:\n  - split: train\n"
        "    path: en-fr/train-*\n---\nThe card's words are not part of the corpus.\n"
    )
    wikipedia = tmp_path / "wikimedia" / "wikipedia"
    for language, word in (("en", "article"), ("fr", "texte")):
        rows = [
            {"id": str(k), "url": "u", "title": f"{k}", "text": f"{word} {k}"} for k in range(5)
        ]
        write(wikipedia, f"20231101.{language}/train-00000-of-00001.parquet", rows)
    gutenberg = tmp_path / "manu" / "project_gutenberg"
    for language in ("de", "zh"):
        write(
            gutenberg,
            f"data/{language}-00000-of-00001-0a1b.parquet",
            [{"id": "1", "text": language}],
        )
    question = {
        "type": "Adversarial",
        "category": "Myths",
        "question": "Why?",
        "best_answer": "Because.",
        "correct_answers": ["Because."],
        "incorrect_answers": ["No."],
        "source": "s",
    }
    write(
        tmp_path / "truthfulqa" / "truthful_qa",
        "generation/validation-00000-of-00001.parquet",
        [question, {**question, "question": "Who?", "best_answer": "You."}],
    )
    return tmp_path


def documents(spec: str) -> dict[str, str]:
    return {document.id: document.text for document in source(spec).documents()}


def test_europarl_gives_blocks_of_each_language(hub: Path, monkeypatch) -> None:
    monkeypatch.setenv("CUTAWAY_HUB", str(hub))
    found = documents("europarl:en-fr")
    assert list(found)[:2] == ["en-fr#000001.en", "en-fr#000001.fr"]
    assert len(found) == 6
    english = "\n".join(text for id, text in found.items() if id.endswith(".en"))
    assert english == "\n".join(f"line {k}" for k in range(450))
    assert next(iter(documents("europarl"))) == "en-fr#000001.en"
    assert next(iter(documents("europarl:fr-en"))) == "en-fr#000001.fr"


def test_each_corpus_reads_its_own_layout(hub: Path, monkeypatch) -> None:
    monkeypatch.setenv("CUTAWAY_HUB", str(hub))
    assert documents("wikipedia")["20231101.en:1"] == "article 0"
    assert list(documents("wikipedia:fr").values()) == [f"texte {k}" for k in range(5)]
    assert documents("wikipedia:fr:20231101") == documents("wikipedia:fr")
    assert documents("gutenberg:zh") == {"zh:1": "zh"}
    assert list(documents("truthfulqa").values()) == ["Why?\nBecause.", "Who?\nYou."]


def test_a_folder_behind_an_at_takes_the_hubs_place(hub: Path) -> None:
    expected = [f"texte {k}" for k in range(5)]
    for folder in (hub, hub / "wikimedia" / "wikipedia"):
        assert list(documents(f"wikipedia:fr@{folder}").values()) == expected


def test_a_repositorys_folder_works_as_a_path(hub: Path) -> None:
    found = documents(str(hub / "Helsinki-NLP" / "europarl"))
    assert "The card's words" not in "".join(found.values())
    assert next(iter(found.values())).startswith("line 0\nline 1\n")
    assert len(documents(str(hub / "wikimedia" / "wikipedia"))) == 10
    assert list(documents(str(hub / "truthfulqa")).values()) == ["Why?\nBecause.", "Who?\nYou."]


def test_what_a_folder_does_not_have_is_told_with_what_it_has(hub: Path, monkeypatch) -> None:
    with pytest.raises(UserError, match=r"has no 20231101\.de; .*it has: 20231101\.en, "):
        source(f"wikipedia:de@{hub}")
    with pytest.raises(UserError, match=r"has no 20220301\.fr; did you mean '20231101\.fr'\?"):
        source(f"wikipedia:fr:20220301@{hub}")
    with pytest.raises(UserError, match="has no fr; it has: de, zh"):
        source(f"gutenberg:fr@{hub}")
    with pytest.raises(UserError, match="not in the layout of wikimedia/wikipedia"):
        source(f"wikipedia@{hub / 'manu'}")
    monkeypatch.setenv("CUTAWAY_HUB", str(hub / "manu"))
    with pytest.raises(UserError, match=r"CUTAWAY_HUB = .* holds no wikimedia/wikipedia"):
        source("wikipedia")


def test_a_file_that_breaks_in_the_middle_ends_the_reading_with_one_line(hub: Path) -> None:
    path = hub / "wikimedia" / "wikipedia" / "20231101.en" / "train-00000-of-00001.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:40] + bytes(300) + content[340:])
    with pytest.raises(UserError, match=r"wikipedia@.*: reading stopped after 0 rows: ") as caught:
        documents(f"wikipedia@{hub}")
    assert "\n" not in str(caught.value)


def test_the_fingerprint_follows_the_files_and_the_part(hub: Path) -> None:
    before = source(f"wikipedia@{hub}").fingerprint()
    assert before == source(f"wikipedia:en@{hub / 'wikimedia' / 'wikipedia'}").fingerprint()
    assert before != source(f"wikipedia:fr@{hub}").fingerprint()
    write(hub, "wikimedia/wikipedia/20231101.en/train-00000-of-00001.parquet", [{"text": "new"}])
    assert before != source(f"wikipedia@{hub}").fingerprint()


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


READ = """
from cutaway.base.errors import UserError
from cutaway.text import source
{before}
try:
    next(source("wikipedia:fr").documents())
except UserError as error:
    print(error)
"""


def test_a_hub_out_of_reach_is_one_clear_line() -> None:
    """A real refused connection: nothing listens at that port."""
    done = run(READ.format(before=""), HF_ENDPOINT="http://127.0.0.1:9")
    assert done.stdout.startswith(
        "data = 'wikipedia:fr': the Hugging Face hub cannot be reached for wikimedia/wikipedia ("
    )
    assert done.stdout.count("\n") == 1
    assert not done.stderr


def test_without_the_extra_the_line_says_what_to_install(hub: Path) -> None:
    without = "import sys; sys.modules['datasets'] = None"
    done = run(READ.format(before=without), CUTAWAY_HUB=str(hub))
    assert done.stdout == "data = 'wikipedia:fr': needs the hub extra: pip install 'cutaway[hub]'\n"


STREAM = """
from cutaway.base.errors import UserError
from cutaway.text import source
for spec in ("wikipedia:fr", "europarl:fr-en", "gutenberg:zh", "truthfulqa", "wikipedia:frr"):
    try:
        found = source(spec)
        print(found.fingerprint()[:70], [document.text[:12] for document in found.documents()])
    except UserError as error:
        print(error)
"""


def test_the_hub_itself_is_streamed_part_by_part(hub: Path, tmp_path: Path) -> None:
    """Against a server that answers as the hub does, so that no network is needed."""
    command = [sys.executable, str(Path(__file__).with_name("hub_server.py")), str(hub)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            port = server.stdout.readline().strip()
            where = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path / "home")}
            done = run(STREAM, **where)
        finally:
            server.kill()
    revision = "0123456789abcdef" * 2 + "01234567"
    wikipedia, europarl, gutenberg, truthfulqa, unknown = done.stdout.splitlines()
    assert wikipedia.startswith(f"hub:wikimedia/wikipedia@{revision}")
    assert wikipedia.endswith(repr([f"texte {k}" for k in range(5)]))
    blocks = ["ligne 0\nlign", "line 0\nline ", "ligne 200\nli", "line 200\nlin"]
    assert repr(blocks)[:-1] in europarl
    assert gutenberg.endswith("['zh']")
    assert truthfulqa.endswith(repr(["Why?\nBecause", "Who?\nYou."]))
    assert unknown.endswith(
        "wikimedia/wikipedia has no 20231101.frr; did you mean '20231101.fr'? "
        "it has: 20231101.en, 20231101.fr"
    )
