"""`cutaway probe data|inspect`: examples to probe, and a look at them before training."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from cutaway.base import display, files
from cutaway.base.errors import RunFailed, UserError
from cutaway.cli.common import Flag, in_language, output_format

if TYPE_CHECKING:
    from cutaway.probes.data.examples import ProbeData
    from cutaway.probes.data.inspect import Inspection
    from cutaway.text.tokenizers import Tokenizer

CONTEXT_LENGTH = 256
# Where a model's configuration says how long a context it reads.
_LONGEST = ("max_position_embeddings", "n_positions", "max_sequence_length")


def data(
    model: Annotated[str, Parameter(name=["--model", "--model-name"])],
    *,
    data: str | None = None,
    target_token: str | None = None,
    context_length: int | None = None,
    max_texts: int | None = None,
    max_chunks_per_class: int | None = None,
    max_evaluation: int | None = None,
    train_ratio: float = 0.8,
    language: str | None = None,
    predict_current: Flag = False,
    labels: str | None = None,
    validation_labels: str | None = None,
    test_labels: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    split_column: str | None = None,
    label: str | None = None,
    read: Literal["mean", "last", "first"] | None = None,
    chat: Flag = False,
    reply_only: Flag = False,
    seed: int = 0,
    out: Annotated[Path, Parameter(name=["--out", "--output-dir"])] = Path("probe-data"),
    json: bool = False,
    csv: bool = False,
) -> None:
    """Make examples to probe: windows of text before a token, or texts and words with labels.

    They are split by document into train, validation and test. Windows are balanced for training
    and drawn as text has them for validation and test.

    Args:
        model: Whose tokenizer: a run, a folder in Hugging Face layout or with a tokenizer, a GGUF file,
            or an id.
        data: Text: a source by name, a file or a folder (`cutaway corpus ls`) [docstrings].
        target_token: The token to predict, with its space [" the"].
        context_length: Tokens of a window, or of a labelled text at most [256 for windows, or what
            the model reads where that is less].
        max_texts: Documents to read at most [1000].
        max_chunks_per_class: Windows of each class to train on at most [10000].
        max_evaluation: Windows to validate and to test on at most, each [10000].
        train_ratio: Share for training; the rest is halved: 0.8 is 80/10/10.
        language: Of gutenberg or wikipedia: en, fr, de, ...
        predict_current: Ask whether the last token read is the target, not the next one.
        labels: Labels in the place of a target: a .csv, .tsv, .jsonl or .parquet file with columns
            text, label and perhaps group and split, a folder with a sub-folder or file per class, a
            CoNLL file with a tag per word, or docstrings. A column split (train, validation, test;
            val, dev, ... are understood) is kept, and so are files named by part in a folder.
        validation_labels: A file like --labels to validate on; --labels is then for training only.
        test_labels: A file like --labels to test on.
        text_column: The table's column of texts [text].
        label_column: Its column of labels [label].
        group_column: Its column that says which texts belong together [group, if there].
        split_column: Its column of parts [split, if there].
        label: Of a CoNLL file: this entity type or not, PER say [all types].
        read: Of labelled texts: the mean over a text's tokens, the last one, or first:
            where it begins ([CLS] of encoders) [mean].
        chat: The table's rows hold conversations (column messages, or --text-column), which are read
            with the model's chat template.
        reply_only: Read the last reply of each conversation only.
        seed: Of the split and the draws.
        out: The folder to write; a new or empty one.
        json: Print JSON.
        csv: Print CSV.
    """
    from cutaway.labelled.tables import Columns
    from cutaway.probes.data.labels import label_data
    from cutaway.probes.data.places import require_ratio
    from cutaway.runs import places
    from cutaway.text.conversations import Chosen, template_of

    format = output_format(json, csv)
    windows = {
        "max_texts": max_texts,
        "max_chunks_per_class": max_chunks_per_class,
        "max_evaluation": max_evaluation,
    }
    _require_together(
        labels,
        {"data": data, "target_token": target_token, "language": language, **windows}
        | {"predict_current": predict_current or None},
        {
            "label": label,
            "read": read,
            "chat": chat or None,
            "reply_only": reply_only or None,
            "validation_labels": validation_labels,
            "test_labels": test_labels,
            "text_column": text_column,
            "label_column": label_column,
            "group_column": group_column,
            "split_column": split_column,
        },
    )
    if reply_only and not chat:
        raise UserError("reply_only: goes with chat, which says what a reply is")
    require_ratio(train_ratio)
    places.require_output(out, "probe data")
    files.require_writable(out)
    tokenizer, longest = tokenizer_of(model)
    shared = {"train_ratio": train_ratio, "seed": seed}
    special = sum(map(len, tokenizer.special))  # which stand around every text that is read
    conversations = None
    if chat:
        template = template_of(tokenizer)
        template = template.dated(template.today)
        conversations = Chosen(str(labels), template, tokenizer)
        special = len(conversations.front)
    length = _length(context_length, longest, model, special, windows=labels is None)
    if labels is not None:
        named = (text_column, label_column, group_column, split_column)
        columns = Columns(text_column or "text", label_column or "label", *named[2:])
        found = label_data(
            labels,
            tokenizer,
            validation=validation_labels,
            test=test_labels,
            columns=columns if any(named) else None,
            label=label,
            read=read,
            chat=conversations,
            reply_only=reply_only,
            context_length=length,
            **shared,
        )
    else:
        from cutaway.probes.data.windows import token_data
        from cutaway.text import source

        found = token_data(
            source(in_language(data or "docstrings", language)),
            tokenizer,
            " the" if target_token is None else target_token,
            task="current" if predict_current else "next",
            context_length=length,
            **{name: value for name, value in windows.items() if value is not None},
            **shared,
        )
    found.save(out)
    display.show(_rows(found, format), format)
    if format == "table" and found.balanced:
        print("natural: share in all text of the training documents; train is balanced")
    display.notice(f"wrote {out}")


def inspect(
    data: Path = Path("probe-data"),
    *,
    num_samples: int = 5,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Look at examples before training: balance, lengths, samples, and leakage between parts.

    Ends with exit code 1 where documents are in two parts or values are out of range.

    Args:
        data: A folder that `cutaway probe data` wrote, or one of its parts (data/test.safetensors).
        num_samples: Random samples of each class, from train unless a part is named.
        seed: Of the samples.
        json: Print JSON.
    """
    from cutaway.probes.data import inspect as looking
    from cutaway.probes.data.examples import METADATA, PARTS, ProbeData

    folder, part = data, None
    if data.name in {f"{name}.safetensors" for name in PARTS}:
        folder, part = data.parent, data.stem
    elif data.name == METADATA:
        folder = data.parent
    found = looking.inspect(ProbeData.load(folder), samples=num_samples, part=part, seed=seed)
    if json:
        print(json_.dumps(display.json_value(found.to_json()), ensure_ascii=False, indent=2))
    else:
        _print(found, folder)
    if found.errors:
        raise RunFailed(f"{folder}: {'; '.join(found.errors)}")


def tokenizer_of(model: str) -> tuple[Tokenizer, int | None]:
    """The tokenizer of what a user names, and the longest context its model reads, where known.

    Weights are neither loaded nor fetched; a GGUF file, which holds both, is converted. UserError for
    what has no tokenizer.
    """
    from cutaway.nets import gguf, gguf_hub
    from cutaway.text import tokenizers

    for folder in (Path(model), Path("runs") / model):
        if (folder / "run.json").is_file():
            return _of_run(folder)
    if model.startswith("runs/") and not Path(model).exists():
        from cutaway.runs.finding import find_run

        find_run(model)  # says that there is none, and which name is near
    if not Path(model).exists() and "@" in model:
        from cutaway.nets.huggingface import snapshot

        id, _, revision = model.partition("@")
        folder = snapshot(id, revision)
        if gguf_hub.alone(folder):
            return _of_gguf(gguf_hub.only(folder, id), id)
        found = tokenizers.pretrained(folder)
        found.name = id
        return found, _longest(folder / "config.json")
    if not gguf.has_layout(Path(model)) and (file := gguf.find(Path(model))) is not None:
        return _of_gguf(file)
    if Path(model).is_dir():
        return tokenizers.Tokenizer.load(model), _longest(Path(model) / "config.json")
    if not Path(model).exists() and (folder := _cached_gguf(model)) is not None:
        return _of_gguf(gguf_hub.only(folder, model), model)
    found = tokenizers.pretrained(model)
    place = None if Path(model).exists() else _cached(model)
    return found, None if place is None else _longest(place / "config.json")


# -- inside ----------------------------------------------------------------------------------------


def _require_together(
    labels: str | None, of_windows: dict[str, Any], of_labels: dict[str, Any]
) -> None:
    """Refuse an option that the other kind of task has."""
    wrong, why = (of_labels, "goes with") if labels is None else (of_windows, "does not go with")
    for name, value in wrong.items():
        if value is not None and name in ("chat", "reply_only"):
            raise UserError(
                f"--{name.replace('_', '-')}: windows before a target token are read from plain text; "
                "conversations go with --labels FILE (rows with messages and label)"
            )
        if value is not None:
            raise UserError(f"--{name.replace('_', '-')} {why} --labels")


def _of_gguf(file: Path, id: str | None = None) -> tuple[Tokenizer, int | None]:
    from cutaway.nets import gguf
    from cutaway.text.tokenizers import Tokenizer

    folder = gguf.converted(file).folder
    found = Tokenizer.load(folder)
    found.name = id or found.name
    return found, _longest(folder / "config.json")


def _cached_gguf(id: str) -> Path | None:
    """The snapshot of a hub id in the local cache where its weights are in GGUF files alone."""
    from huggingface_hub import snapshot_download

    from cutaway.nets import gguf_hub

    try:
        folder = Path(snapshot_download(id, local_files_only=True))
    except Exception:  # not in the cache, or not an id
        return None
    return folder if gguf_hub.alone(folder) else None


def _of_run(folder: Path) -> tuple[Tokenizer, int | None]:
    from cutaway.runs.folder import Run
    from cutaway.text.tokenizers import Tokenizer

    if not (folder / "tokenizer").is_dir():
        raise UserError(f"{folder}: this run has no tokenizer; give one of a language model")
    shape = Run.open(folder).record.resolved.get("architecture") or {}
    return Tokenizer.load(folder / "tokenizer"), shape.get("block_size")


def _longest(config: Path) -> int | None:
    """The longest context a Hugging Face configuration states."""
    try:
        said = files.read_json(config)
        said = said.get("text_config") or said
    except (OSError, ValueError, AttributeError):
        return None
    return next((said[name] for name in _LONGEST if isinstance(said.get(name), int)), None)


def _cached(id: str) -> Path | None:
    """The folder of a hub model's configuration, fetched if need be; None where there is none."""
    from huggingface_hub import hf_hub_download

    for cached in (True, False):
        try:
            return Path(hf_hub_download(id, "config.json", local_files_only=cached)).parent
        except Exception:  # no network, no such file: then the length is not known
            continue
    return None


def _length(
    given: int | None, longest: int | None, model: str, special: int, *, windows: bool
) -> int | None:
    """The context length: as given, as the model allows beside special tokens, 256 for windows."""
    if given is not None:
        if longest is not None and given > longest:
            raise UserError(f"context_length = {given}: {model} reads at most {longest}")
        return given
    longest = longest and longest - special
    if not windows:
        return longest
    if longest is not None and longest < CONTEXT_LENGTH:
        display.notice(f"context_length = {longest}: {model} reads no more")
        return longest
    return CONTEXT_LENGTH


def _rows(found: ProbeData, format: str) -> list[dict[str, Any]]:
    """A line for each part and class."""
    from cutaway.figures.text import visible

    shown = visible if format == "table" else str
    return [
        {
            "part": name,
            "class": shown(label),
            "examples": count,
            "share": count / len(found.parts[name]),
            "natural": natural,
            "documents": len(found.parts[name].document.unique()),
        }
        for name, counts in found.counts.items()
        for (label, count), natural in zip(counts.items(), found.prevalence, strict=True)
    ]


def _print(found: Inspection, folder: Path) -> None:
    """The tables of an inspection, its samples and what is wrong."""
    from cutaway.figures.text import visible

    about = found.about
    what = "labels" if about["target"] is None else f"{found.task} token is {about['target']!r}"
    print(
        f"{folder}: {found.name}; {what}; {about['documents']:,} documents; "
        f"tokenizer {about['tokenizer']}\n"
    )
    display.show([{**row, "class": visible(row["class"])} for row in found.balance])
    display.show(found.contexts)
    print(found.footnote + "\n")
    for row in found.samples:
        print(f"{row['part']}, {visible(row['class'])}, {row['document']}:")
        text = f"{visible(row['before']) if row['before'] else ''}⟦{visible(row['read'])}⟧"
        after = f" → {visible(row['next'])}" if "next" in row else ""
        if row["after"]:
            text += visible(row["after"])
        print(f"  {text}{after}\n")
    for problem in found.problems:
        if problem.severity == "warning":
            print(f"warning: {problem.message}")
    if not found.problems:
        print("no problem found: ids and labels in range, no document in two parts")
