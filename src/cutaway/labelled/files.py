"""Tasks from files: folders of classes, tables, CoNLL tokens, and the docstrings every Python has.

Long documents are cut into passages at paragraphs. Passages of a document share its group; a
class that is one or two long documents is divided into sections of neighbouring passages, which
become its groups.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.labelled.official import PARTS, part_of_file
from cutaway.labelled.rows import TABLES
from cutaway.labelled.tables import Columns, table_task
from cutaway.labelled.texts import FEWEST, LabelledTexts
from cutaway.text import decoding
from cutaway.text.docstrings import DocstringsSource
from cutaway.text.documents import Document
from cutaway.text.files import SUFFIXES, FilesSource

CHARACTERS = 400  # of a passage, about: some 80 tokens of English
SECTION = 10  # passages of a section
PACKAGES = 6  # classes of the docstrings task, at most
CONLL = (".conll", ".conll02", ".conll2002", ".conll03", ".conll2003", ".bio", ".iob")
_BREAKS = ("\n\n", "\n", ". ", " ")
# a space between words that running text does not have
NO_SPACE = re.compile(r" (?=[.,;:!?)\]'’])|(?<=[(\[]) ")


def read_tasks(
    place: str | os.PathLike[str], *, characters: int = CHARACTERS, columns: Columns | None = None
) -> list[LabelledTexts]:
    """The tasks in a place.

    - `docstrings`: which package of the standard library a docstring belongs to;
    - a folder with a sub-folder or a file per class: which class a passage is from;
    - `.jsonl`, `.csv`, `.tsv`, `.parquet`: columns `text`, `label` and, if there, `group` and
      `split`, or of other names (`columns`);
    - a folder of such tables named by part (`train.csv`, `test.csv`): a split that is kept;
    - `.conll`, `.conll02`, `.bio` and the like (`token<TAB>tag`, a blank line between sentences):
      a task per entity type, whether a sentence names one.

    Raises UserError, naming file and line, for anything else.
    """
    if str(place) == "docstrings":
        return [docstrings_task(characters=characters)]
    path = Path(place)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; expected one, or docstrings")
    if path.is_dir():
        if parts := parts_in(path, TABLES):
            return [table_task(parts, columns)]
        return [folder_task(path, characters=characters)]
    if path.suffix.lower() in TABLES:
        return [table_task(path, columns)]
    if path.suffix.lower() in CONLL:
        return conll_tasks(path)
    known = ", ".join((*TABLES, *CONLL))
    raise UserError(f"{path}: not a file of labelled texts; expected a folder, or {known}")


def parts_in(folder: Path, suffixes: Sequence[str]) -> dict[str, list[Path]] | None:
    """The files of a folder by the part each is named after; None where it is no folder of parts.

    It is one where all files of these kinds are named after a part, one of them after `train`, and
    there is another part.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in suffixes:
            continue
        if (part := part_of_file(path.stem)) is None:
            return None
        found.setdefault(part, []).append(path)
    return found if "train" in found and len(found) > 1 else None


def folder_task(path: Path, *, characters: int = CHARACTERS) -> LabelledTexts:
    """A class per sub-folder, or per file where there are no sub-folders; classes are their names."""
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    classes = [entry for entry in entries if entry.is_dir()] or [
        entry for entry in entries if entry.name.lower().removesuffix(".gz").endswith(SUFFIXES)
    ]
    if len(classes) < 2:
        raise UserError(f"{path}: expected two or more sub-folders or text files, a class each")
    documents = {
        one.name if one.is_dir() else one.name.partition(".")[0]: FilesSource(one).documents()
        for one in classes
    }
    if len(documents) < len(classes):
        raise UserError(
            f"{path}: files of the same name but for the ending; expected one per class"
        )
    whole = path.resolve()  # `en` says little: `gutenberg/en`
    return _passages_task(f"{whole.parent.name}/{whole.name}", documents, characters)


def docstrings_task(*, packages: int = PACKAGES, characters: int = CHARACTERS) -> LabelledTexts:
    """Which package of the standard library a passage of docstrings is from; groups are modules.

    The packages with most text, of those with five modules or more that have some.
    """
    modules: dict[str, list[Document]] = {}
    for document in DocstringsSource().documents():
        package, dot, _ = document.id.partition(".")
        if dot:
            modules.setdefault(package, []).append(document)
    sizes = {
        package: sum(len(document.text) for document in found)
        for package, found in modules.items()
        if len(found) >= 5
    }
    largest = sorted(sizes, key=lambda package: -sizes[package])[:packages]
    return _passages_task("docstrings", {name: modules[name] for name in largest}, characters)


def conll_tasks(path: Path) -> list[LabelledTexts]:
    """For each entity type with enough sentences: whether a sentence names one, labels `no`, `yes`.

    Tags are `O`, `B-PER`, `I-PER` in the last column. Groups: `sentence_groups`.
    """
    texts, types, documents = [], [], []
    for words, tags, document in conll_sentences(path):
        texts.append(NO_SPACE.sub("", " ".join(words)))
        types.append({tag.partition("-")[2] for tag in tags if tag != "O"})
        documents.append(document)
    if not texts:
        raise UserError(f"{path}: no sentence in it")
    groups = sentence_groups(documents)
    counts = Counter(kind for found in types for kind in found)
    name = path.name.partition(".")[0]
    tasks = [
        LabelledTexts(
            f"{name}: {kind}", texts, ["yes" if kind in found else "no" for found in types], groups
        )
        for kind, count in sorted(counts.items())
        if FEWEST <= count <= len(texts) - FEWEST
    ]
    if not tasks:
        raise UserError(
            f"{path}: no entity type is in {FEWEST} or more sentences and missing from as many; "
            f"sentences that name each: {dict(counts) or 'none'}"
        )
    return tasks


def conll_sentences(path: Path) -> Iterator[tuple[list[str], list[str], int]]:
    """Words, tags and the number of the document (0 where none is marked) of each sentence."""
    encoding, _ = decoding.examined(path)
    words: list[str] = []
    tags: list[str] = []
    document = 0
    with decoding.opened(path, encoding) as stream:
        for number, line in enumerate(decoding.lines(stream, path), 1):
            columns = line.split()
            if columns and columns[0] == "-DOCSTART-":
                document += 1
                columns = []
            if not columns:
                if words:
                    yield words, tags, document
                    words, tags = [], []
                continue
            if len(columns) < 2 or not re.fullmatch(r"O|[BIESLU]-\S+", columns[-1]):
                raise UserError(
                    f"{path}: line {number}: {line.strip()[:40]!r}; expected a token and its tag, "
                    "O, B-PER or I-PER"
                )
            words.append(columns[0])
            tags.append(columns[-1])
    if words:
        yield words, tags, document


def sentence_groups(documents: Sequence[int], section: int = SECTION) -> list[str]:
    """A group for each sentence: its document where several are marked, else `section` neighbours.

    `documents` are the numbers that `conll_sentences` gives, 0 where none is marked.
    """
    if set(documents) == {1}:
        documents = [0] * len(documents)
    return [
        f"document {document}" if document else f"sentences {number // section}"
        for number, document in enumerate(documents)
    ]


def passages(text: str, characters: int = CHARACTERS) -> list[str]:
    """A text in passages of about `characters`, cut at empty lines, else at lines, sentences, words.

    A passage ends at the first paragraph with which it has so many characters; one twice that is
    cut further. A short rest joins the passage before it.
    """
    found: list[str] = []
    held = ""
    for piece in _pieces(text, 2 * characters, _BREAKS):
        held += piece
        if len(held) >= characters:
            found.append(held.strip())
            held = ""
    if (rest := held.strip()) and found and len(rest) < characters // 4:
        found[-1] += "\n\n" + rest
    elif rest:
        found.append(rest)
    return [passage for passage in found if passage]


# -- inside ----------------------------------------------------------------------------------------


def _pieces(text: str, longest: int, breaks: tuple[str, ...]) -> Iterator[str]:
    """Parts of a text that add up to it: at the first kind of break, and at the next where longer."""
    if not breaks:
        yield from (text[at : at + longest] for at in range(0, len(text), longest))
        return
    mark, *finer = breaks
    parts = text.split(mark)
    for number, part in enumerate(parts):
        whole = part + mark if number + 1 < len(parts) else part
        if len(whole) > longest:
            yield from _pieces(whole, longest, tuple(finer))
        else:
            yield whole


def _passages_task(
    name: str, documents: Mapping[str, Iterable[Document]], characters: int
) -> LabelledTexts:
    """A task of passages; classes that are one or two documents get sections for groups.

    Documents of the same name in two classes are one group: a text and its translation, say. A
    passage that comes again in its class is left out, or test would hold what was trained on.
    """
    texts, labels, groups, divided, again = [], [], [], [], 0
    for label, found in documents.items():
        cut = [(document.id, passages(document.text, characters)) for document in found]
        few = len(cut) < len(PARTS)
        divided += [label] if few else []
        known: set[str] = set()
        for id, parts in cut:
            for number, passage in enumerate(parts):
                if passage in known:
                    again += 1
                    continue
                known.add(passage)
                texts.append(passage)
                labels.append(label)
                groups.append(f"{id} {number // SECTION}" if few else id)
    if again:
        notice(f"{name}: {again:,} passages repeat another of their class and are left out")
    if divided:
        notice(
            f"{name}: {', '.join(divided)}: fewer than {len(PARTS)} documents, divided into sections "
            f"of {SECTION} passages; train and test share the document, though no section"
        )
    return LabelledTexts(name, texts, labels, groups)
