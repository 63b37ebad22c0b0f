"""`cutaway probe view`: a page of text, coloured by probes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cutaway.base import display, files
from cutaway.base.errors import UserError
from cutaway.cli.common import in_language

if TYPE_CHECKING:
    from collections.abc import Iterable

_TOKENS = 4000  # some pages of text


def view(
    probes: Annotated[Path, Parameter(name=["--probes", "--probe-dir"])],
    *,
    model: Annotated[str | None, Parameter(name=["--model", "--model-name"])] = None,
    data: Annotated[str | None, Parameter(name=["--data", "--text-source"])] = None,
    text_file: Path | None = None,
    text: str | None = None,
    tokens: Annotated[str | None, Parameter(name=["--tokens", "--num-tokens"])] = None,
    language: str | None = None,
    device: str = "auto",
    out: Annotated[Path, Parameter(name=["--out", "--output"])] = Path("view.html"),
) -> None:
    """A page of text, each token coloured by what a probe says; a slider goes through the layers.

    One file that needs nothing else. Labels, where the probes' task is about tokens, are the text's.

    Args:
        probes: A run of `probe train`, or a folder of probes.
        model: The model they are of, where it moved [the one they were trained on].
        data: Text: a source by name, a file or a folder (`cutaway corpus ls`); for probes of
            conversations a file of conversations [documents that the probes' training did not see, where
            these can be found; else docstrings].
        text_file: Text: one file, whatever its ending.
        text: Text: this.
        tokens: How many tokens of it: 2000, 20k [4000].
        language: Of a source that has several: fr is short for --data gutenberg:fr.
        device: auto, cpu, cuda, cuda:N or mps.
        out: The file to write.
    """
    from cutaway.activations.config import count
    from cutaway.probes.data.conversations import tokens_of_conversations
    from cutaway.probes.view.page import encoder_note, write_view
    from cutaway.probes.view.reading import model_of, open_probes, read_tokens, tokens_of

    wanted = _TOKENS if tokens is None else count(tokens)
    found = open_probes(probes)
    how = found[0].about.reading
    texts, name = _texts(probes, data, text_file, text, language, chat=how.chat is not None)
    if out.is_dir():
        raise UserError(f"out = '{out}': is a folder; name a file, like {out / 'view.html'}")
    if out.exists() and out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"out = '{out}': is there already, and no page; name another file")
    files.require_writable(out.parent)
    network = model_of(found, model, device=device)
    if how.chat is not None:
        ids, starts = tokens_of_conversations(texts, network.reads, how, wanted)
    else:
        ids, starts = tokens_of(texts, network.reads, wanted)
    reading = read_tokens(network, found, ids, starts=starts)
    page = write_view(reading, network.reads, out, text=name)
    if (note := encoder_note(reading)) is not None:
        display.notice(note)
    if tokens is not None and page.tokens < wanted:
        display.notice(f"{name}: {page.tokens:,} tokens, {wanted:,} were asked for")
    if page.missing:
        display.notice(f"tokens with a state that is not finite, hatched: {page.missing:,}")
    print(
        f"{page.path}: {page.tokens:,} tokens, {page.layers} layer{'s'[: page.layers > 1]}, "
        f"{files.human_bytes(page.bytes)}"
    )


def _texts(
    probes: Path,
    data: str | None,
    text_file: Path | None,
    text: str | None,
    language: str | None,
    *,
    chat: bool,
) -> tuple[str | Iterable[str], str]:
    """The documents that are asked for, and what to call them; with `chat` the name of a file of
    conversations, or a text that a user says."""
    from cutaway.probes.other_data.held_out import held_out
    from cutaway.text import decoding
    from cutaway.text.sources import source

    if data == "file" and text_file is not None:  # as in --text-source file --text-file FILE
        data = None
    if sum(one is not None for one in (data, text_file, text)) > 1:
        raise UserError("--data, --text-file and --text: choose one")
    if chat and data is not None and language is None:
        return data, data
    if chat and text is None and text_file is None:
        raise UserError(
            f"{probes}: these probes read conversations; name some with --data FILE, or what a user "
            "says with --text"
        )
    if text is None and text_file is None:
        if data is None and language is None and (found := held_out(probes)):
            chosen = found
        else:
            chosen = source(in_language(data or "docstrings", language))
        return (document.text for document in chosen.documents()), chosen.name
    if language is not None:
        raise UserError(f"language = {language!r}: goes with --data gutenberg or wikipedia")
    if text_file is not None:
        encoding, _ = decoding.examined(text_file)
        with decoding.opened(text_file, encoding) as stream:
            text = stream.read()
    name = "the text given" if text_file is None else text_file.name
    if not text or text.isspace():
        raise UserError(f"{name}: no text in it")
    return [text], name
