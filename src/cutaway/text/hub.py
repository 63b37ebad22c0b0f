"""Corpora of the Hugging Face hub, streamed through `datasets`; nothing is downloaded whole.

`CORPORA` names four. A local folder in the hub's layout works in the hub's place: written behind
an `@` (`wikipedia:fr@/data/wikipedia`), or as `<owner>/<name>` in the folder that the environment
variable `CUTAWAY_HUB` names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutaway.base.display import notice
from cutaway.base.errors import UserError, nearest
from cutaway.text import rows
from cutaway.text.documents import Document, SourceInfo
from cutaway.text.files import fingerprint

_TIMEOUT = 10  # seconds to wait for the hub's first answer


@dataclass(frozen=True, slots=True)
class Choice:
    """What was asked for: a part, as the repository calls it, and the shape of its rows."""

    part: str
    shape: rows.Shape


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus of the hub. `choose` reads what stands behind its name in a spec."""

    usage: str
    repository: str
    what: str
    size: str
    choose: Callable[[list[str]], Choice]
    layout: str  # a pattern of file names in the repository; its group is the part


class HubSource:
    """A corpus by spec: `name[:part...][@folder]`.

    Raises UserError for an unknown part (listing those there are), without the `hub` extra, and
    where the hub cannot be reached.
    """

    def __init__(self, spec: str):
        self.name = spec
        asked, at, folder = spec.partition("@")
        name, *parts = asked.split(":")
        if name not in CORPORA:
            raise UserError(f"data = {spec!r}: unknown corpus{nearest(name, CORPORA)}")
        self.corpus = CORPORA[name]
        if at and not folder:
            raise UserError(f"data = {spec!r}: a folder is missing behind '@'")
        try:
            self._choice = self.corpus.choose(parts)
        except UserError as error:
            raise UserError(f"data = {spec!r}: {error}") from None
        self._folder = self._local(folder)
        self._found: tuple[list[str], str | None] | None = None
        if self._folder is not None:
            self._files()

    _told = False

    @classmethod
    def infos(cls) -> list[SourceInfo]:
        """One for each corpus of `CORPORA`."""
        return [
            SourceInfo(one.usage, f"{one.what} ({one.repository})", one.size, "extra: hub")
            for one in CORPORA.values()
        ]

    def documents(self) -> Iterator[Document]:
        """Documents in the order of the corpus."""
        part, shape = self._choice.part, self._choice.shape
        count = 0
        try:
            stream = self._stream(list(shape.columns))

            def numbered() -> Iterator[tuple[str, Mapping[str, Any]]]:
                nonlocal count
                for row in stream:
                    count += 1
                    yield f"{part}:{count}", row

            seen = rows.Counts()
            yield from rows.documents(numbered(), shape, part, seen)
            if seen.blank and not self._told:
                self._told = True  # however often the documents are read
                notice(f"{self.name}: {seen.blank:,} of {seen.rows:,} rows have no text")
        except UserError:
            raise
        except Exception as error:  # whatever the network, the hub or a file has to say
            raise UserError(
                f"{self.name}: reading stopped after {count:,} rows: {_reason(error)}"
            ) from None
        if not count:
            raise UserError(f"{self.name}: no text in it")

    def _stream(self, columns: list[str]) -> Iterable[Mapping[str, Any]]:
        """The rows of the chosen part, with these columns only."""
        datasets = _datasets(self.name)
        files, revision = self._files()
        if self._folder is not None:  # `datasets` would take a path with `[` or `*` for a pattern
            return _rows_of([self._folder / name for name in files], columns)
        return datasets.load_dataset(
            self.corpus.repository,
            data_files={"train": files},
            split="train",
            streaming=True,
            **({"revision": revision} if revision else {}),
        ).select_columns(columns)

    def fingerprint(self) -> str:
        """The repository's revision and the part; for a local folder its files."""
        files, revision = self._files()
        if self._folder is None:
            return f"hub:{self.corpus.repository}@{revision}:{self._choice}"
        digest = fingerprint((self._folder / name, name) for name in files)
        return f"hub:{digest}:{self._choice}"

    def size(self) -> int | None:
        """Unknown before it is read."""
        return None

    def _local(self, folder: str) -> Path | None:
        """The folder that stands in for the repository, if one does."""
        repository = self.corpus.repository
        if folder:
            root = Path(folder)
            if not root.is_dir():
                raise UserError(f"data = {self.name!r}: {root}: no such folder")
            return root / repository if (root / repository).is_dir() else root
        if hub := os.environ.get("CUTAWAY_HUB"):
            root = Path(hub) / repository
            if not root.is_dir():
                raise UserError(
                    f"data = {self.name!r}: CUTAWAY_HUB = {hub!r} holds no {repository}"
                )
            return root
        return None

    def _files(self) -> tuple[list[str], str | None]:
        """The chosen part's files and the repository's revision (None for a folder)."""
        if self._found is None:
            revision = None
            if self._folder is not None:
                root = self._folder
                there = [path.relative_to(root).as_posix() for path in root.glob("*/*.parquet")]
            else:
                there, revision = _listing(self.corpus.repository, self.name)
            parts: dict[str, list[str]] = {}
            for name in sorted(there):
                if match := re.fullmatch(self.corpus.layout, name):
                    parts.setdefault(match[1], []).append(name)
            if self._choice.part not in parts:
                self._refuse_part(list(parts))
            self._found = parts[self._choice.part], revision
        return self._found

    def _refuse_part(self, parts: list[str]) -> None:
        where, asked = self._folder or self.corpus.repository, self._choice.part
        if not parts:
            raise UserError(
                f"data = {self.name!r}: {where} is not in the layout of {self.corpus.repository} "
                f"(expected {asked} in it)"
            )
        listed = ", ".join(parts[:40]) + (f" and {len(parts) - 40} more" if len(parts) > 40 else "")
        raise UserError(
            f"data = {self.name!r}: {where} has no {asked}{nearest(asked, parts) or ';'} "
            f"it has: {listed}"
        )


def _datasets(name: str) -> Any:
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(_TIMEOUT))
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", str(_TIMEOUT))
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"data = {name!r}: needs the hub extra: pip install 'cutaway[hub]'"
        ) from None
    import huggingface_hub

    # Each of its 20 attempts is 5 of the hub library's, half a minute in all: two will do.
    datasets.config.STREAMING_READ_MAX_RETRIES = 1
    huggingface_hub.utils.logging.set_verbosity_error()
    return datasets


def _rows_of(files: Sequence[Path], columns: list[str]) -> Iterator[Mapping[str, Any]]:
    """The rows of Parquet files, one batch in memory at a time."""
    import pyarrow.parquet as pq

    for file in files:
        with open(file, "rb") as opened, pq.ParquetFile(opened) as parquet:
            if missing := set(columns) - set(parquet.schema_arrow.names):
                raise UserError(f"{file}: has no column {min(missing)!r}")
            for batch in parquet.iter_batches(columns=columns):
                yield from batch.to_pylist()


def _listing(repository: str, name: str) -> tuple[list[str], str]:
    """The repository's files and its revision: the one request that finds out whether all is well."""
    _datasets(name)
    from huggingface_hub import HfApi

    try:
        found = HfApi().dataset_info(repository, timeout=_TIMEOUT)
    except Exception as error:  # no network, a proxy, offline mode, the hub itself
        raise UserError(
            f"data = {name!r}: the Hugging Face hub cannot be reached for {repository} "
            f"({_reason(error)}); a local copy works: {name}@FOLDER"
        ) from None
    return [file.rfilename for file in found.siblings or []], found.sha


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _one_of(what: str, value: str, accepted: list[str]) -> str:
    if value not in accepted:
        close = nearest(value, accepted)
        raise UserError(f"unknown {what} {value!r}{close or ';'} accepted: {', '.join(accepted)}")
    return value


def _at_most(parts: list[str], count: int, usage: str) -> list[str]:
    if len(parts) > count or "" in parts:
        raise UserError(f"expected {usage}")
    return parts


_EUROPARL = "bg cs da de el en es et fi fr hu it lt lv nl pl pt ro sk sl sv".split()  # noqa: SIM905
_GUTENBERG = "de en es fr it nl pl pt ru sv zh".split()  # noqa: SIM905
_TEXT = rows.Shape("text", ("text",))


def _europarl(parts: list[str]) -> Choice:
    pair = (_at_most(parts, 1, "europarl[:en-fr]") or ["en-fr"])[0]
    languages = [_one_of("language", code, _EUROPARL) for code in pair.split("-")]
    if len(set(languages)) != 2:
        raise UserError(f"{pair!r} is not a pair of languages such as en-fr")
    # The hub keeps each pair once; the documents come in the order asked for.
    shape = rows.Shape("translation", ("translation",), tuple(languages))
    return Choice("-".join(sorted(languages)), shape)


def _wikipedia(parts: list[str]) -> Choice:
    usage = "wikipedia[:lang[:date]]"
    language, date = _at_most(parts, 2, usage) + ["en", "20231101"][len(parts) :]
    if not re.fullmatch(r"[a-z][a-z_-]*", language) or not re.fullmatch(r"\d{8}", date):
        raise UserError(f"expected {usage} such as wikipedia:fr:20231101")
    return Choice(f"{date}.{language}", _TEXT)


def _gutenberg(parts: list[str]) -> Choice:
    language = (_at_most(parts, 1, "gutenberg[:lang]") or ["en"])[0]
    return Choice(_one_of("language", language, _GUTENBERG), _TEXT)


def _truthfulqa(parts: list[str]) -> Choice:
    _at_most(parts, 0, "truthfulqa, which has no parts")
    return Choice("generation", rows.QUESTION)


CORPORA: Mapping[str, Corpus] = {
    "europarl": Corpus(
        "europarl[:en-fr]",
        "Helsinki-NLP/europarl",
        "European Parliament, two of 21 languages in parallel",
        "0.1 to 0.6 GB a pair",
        _europarl,
        r"([a-z]{2}-[a-z]{2})/[^/]+\.parquet",
    ),
    "wikipedia": Corpus(
        "wikipedia[:lang[:date]]",
        "wikimedia/wikipedia",
        "articles, one language",
        "20 GB in English",
        _wikipedia,
        r"(\d{8}\.[a-z_-]+)/[^/]+\.parquet",
    ),
    "gutenberg": Corpus(
        "gutenberg[:lang]",
        "manu/project_gutenberg",
        "books, one of 11 languages",
        "1.1 GB in German",
        _gutenberg,
        r"data/([a-z]{2})-[^/]+\.parquet",
    ),
    "truthfulqa": Corpus(
        "truthfulqa",
        "truthfulqa/truthful_qa",
        "817 questions, each with its best answer",
        "0.5 MB",
        _truthfulqa,
        r"(generation)/[^/]+\.parquet",
    ),
}
