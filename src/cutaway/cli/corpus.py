"""`cutaway corpus`: which sources of text there are, and what is in one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cutaway.base.display import Format, cell, notice
from cutaway.base.display import show as display
from cutaway.base.errors import UserError

if TYPE_CHECKING:
    from cutaway.text import Source

_HUB_SAMPLE = 1000  # documents: a hub corpus may be 20 GB behind a network
_SAMPLE = 160  # characters of the first document


def ls(*, json: bool = False, csv: bool = False) -> None:
    """List the sources of text that `--data` takes.

    Args:
        json: Print JSON.
        csv: Print CSV.
    """
    from cutaway.text import known

    rows = [
        {"source": info.name, "what": info.what, "size": info.size, "needs": info.needs}
        for info in known()
    ]
    display(rows, _format(json, csv))


def show(
    source: str,
    *,
    tokenizer: str | None = None,
    vocab_size: int | None = None,
    documents: int | None = None,
    json: bool = False,
    csv: bool = False,
) -> None:
    """Count a source's documents, bytes and words, and show how it begins.

    Args:
        source: A name that `cutaway corpus ls` lists, or a path to a file or folder.
        tokenizer: Count tokens too: `train`, a Hugging Face id, or a folder with a tokenizer.
        vocab_size: Count tokens with a tokenizer of this size trained on the source.
        documents: Read so many documents only; 1,000 of a hub corpus unless given.
        json: Print JSON.
        csv: Print CSV.
    """
    from cutaway.text import First
    from cutaway.text import source as source_of
    from cutaway.text.hub import HubSource

    format = _format(json, csv)
    if documents is not None and documents < 1:
        raise UserError(f"documents = {documents}: expected at least 1")
    if vocab_size is not None and tokenizer not in (None, "train"):
        raise UserError(f"vocab_size goes with a trained tokenizer, not with {tokenizer!r}")
    found = source_of(source)
    if documents is None and isinstance(found, HubSource):
        documents = _HUB_SAMPLE
        notice(f"{source}: the first {documents:,} documents; --documents reads more")
    if documents is not None:
        found = First(found, documents)
    facts = _counts(found)
    if tokenizer is not None or vocab_size is not None:
        facts |= _tokens(found, tokenizer or "train", vocab_size or 8192)
    if format == "table":
        display([{"source": key, source: cell(value)} for key, value in facts.items()])
    else:
        display([{"source": source, **facts}], format)


def _counts(source: Source) -> dict[str, Any]:
    from cutaway.base.progress import progress

    documents = size = words = 0
    sample = ""
    with progress("reading", source.size(), "bytes") as bar:
        for document in source.documents():
            sample = sample or " ".join(document.text[: 4 * _SAMPLE].split())[:_SAMPLE]
            documents += 1
            length = len(document.text.encode())
            size += length
            words += len(document.text.split())
            bar.advance(length)
    return {"documents": documents, "bytes": size, "words": words, "begins": sample}


def _tokens(source: Source, tokenizer: str, vocab_size: int) -> dict[str, Any]:
    from cutaway.text.token_files import token_files

    files = token_files(source, tokenizer=tokenizer, vocab_size=vocab_size)
    total = len(files.train) + len(files.validation)
    return {
        "tokenizer": files.tokenizer.name,
        "vocab_size": files.tokenizer.vocab_size,
        "tokens": total,
        "train_tokens": len(files.train),
        "validation_tokens": len(files.validation),
        "bytes_per_token": (files.train_bytes + files.validation_bytes) / total,
        "kept_in": str(files.folder),
    }


def _format(json: bool, csv: bool) -> Format:
    if json and csv:
        raise UserError("--json and --csv: choose one")
    return "json" if json else "csv" if csv else "table"
