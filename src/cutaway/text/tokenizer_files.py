"""The files of pretrained tokenizers: found in a folder, given one by one, or on the hub, and read."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tokenizers

from cutaway.base.errors import UserError
from cutaway.base.files import as_path, read_json, require_regular
from cutaway.text import chat

END_OF_TEXT = "<|endoftext|>"
_TIMEOUT = 10  # seconds to wait for the hub's first answer
# Where a tokenizer does not say which token ends a text.
_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]")


@dataclass(frozen=True)
class Definition:
    """What the files in `folder` say: the library's tokenizer, the id that ends a text, a name."""

    backend: tokenizers.Tokenizer
    end_of_text: int
    name: str
    chat_template: chat.ChatTemplate | None
    folder: Path


def pretrained(spec: str | os.PathLike[str]) -> Definition:
    """The tokenizer that a Hugging Face id, a folder or a file names; see `tokenizers.pretrained`."""
    path = as_path(spec)
    if path.is_dir():
        return _from_folder(path)
    if path.is_file():
        return _from_folder(path.parent, only=path.name)
    if isinstance(spec, os.PathLike) or spec.count("/") > 1 or spec.startswith((".", "/", "~")):
        raise UserError(f"tokenizer = {str(spec)!r}: no such file or folder")
    return _from_hub(spec)


def saved(folder: Path) -> Definition:
    """A tokenizer that `Tokenizer.save` wrote, or any folder that `pretrained` takes."""
    loaded = _from_folder(folder)
    return replace(loaded, name=_config_of(folder).get("name_or_path") or loaded.name)


def unreadable(folder: Path, error: Exception) -> UserError:
    """The error for a folder whose files are not those of a tokenizer."""
    return UserError(f"tokenizer = '{folder}': not a readable tokenizer: {error}")


def make_byte_level(backend: tokenizers.Tokenizer) -> None:
    """Give a tokenizer GPT-2's split into words and its letters for bytes."""
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()


_PAIRS = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))


def _from_folder(folder: Path, only: str | None = None) -> Definition:
    """From the files in a folder; `only` is the one file the user named."""
    names = [name for pair in _PAIRS for name in pair]
    if only is not None and only not in names and not only.endswith(".json"):
        raise UserError(
            f"tokenizer = '{folder / only}': expected tokenizer.json or one of {', '.join(names)}"
        )
    whole = folder / (only if only and only not in names else "tokenizer.json")
    try:
        if only not in names and os.path.lexists(whole):
            require_regular(whole)
            with _plainly_named(whole) as (file,):
                backend = tokenizers.Tokenizer.from_file(file)
            return _definition(backend, folder)
        for vocabulary, merges in _PAIRS:
            if (folder / vocabulary).is_file() and (folder / merges).is_file():
                return _from_merges(folder, vocabulary, merges)
    except UserError:
        raise
    except Exception as error:  # the library raises plain Exception
        raise unreadable(folder, error) from None
    raise UserError(
        f"tokenizer = '{folder}': no tokenizer.json, no encoder.json with vocab.bpe, "
        "no vocab.json with merges.txt in it"
    )


def _from_merges(folder: Path, vocabulary: str, merges: str) -> Definition:
    with _plainly_named(folder / vocabulary, folder / merges) as (first, second):
        model = tokenizers.models.BPE.from_file(first, second)
    backend = tokenizers.Tokenizer(model)
    make_byte_level(backend)
    if END_OF_TEXT in backend.get_vocab():
        backend.add_special_tokens([END_OF_TEXT])
    return _definition(backend, folder)


def _definition(backend: tokenizers.Tokenizer, folder: Path) -> Definition:
    end, template = _end(backend, folder), chat.template_in(folder, _config_of(folder))
    return Definition(backend, end, folder.name, template, folder)


@contextmanager
def _plainly_named(*paths: Path) -> Iterator[list[str]]:
    """The files under names in UTF-8, as the library takes them: copies where theirs are not."""
    try:
        named = [str(path) for path in paths]
        "".join(named).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            yield [str(shutil.copy(path, Path(folder, f"{n}"))) for n, path in enumerate(paths)]
    else:
        yield named


def _from_hub(id: str) -> Definition:
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(_TIMEOUT))
    from huggingface_hub import HfApi, hf_hub_download

    def fetched(*, cached: bool) -> Path | None:
        for names in (("tokenizer.json",), *reversed(_PAIRS)):
            try:
                found = [hf_hub_download(id, name, local_files_only=cached) for name in names]
            except FileNotFoundError:  # both "not in this repository" and "not in the cache"
                continue
            if names == ("tokenizer.json",):
                for name in ("tokenizer_config.json", chat.CHAT_FILE):
                    _optional(hf_hub_download, id, name, cached)
            return Path(found[0]).parent
        return None

    try:
        folder = fetched(cached=True)
        if folder is None:
            # One quick question first: without a network the download would retry for long.
            HfApi().model_info(id, timeout=_TIMEOUT)
            folder = fetched(cached=False)
    except Exception as error:  # network, permissions, a malformed id
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"tokenizer = {id!r}: no such folder here, and the Hugging Face hub did not give it "
            f"({reason})"
        ) from None
    if folder is None:
        raise UserError(f"tokenizer = {id!r}: no tokenizer.json in this repository")
    return replace(_from_folder(folder), name=id)


def _optional(download: Any, id: str, name: str, cached: bool) -> None:
    try:
        download(id, name, local_files_only=cached)
    except FileNotFoundError:
        pass


def _end(backend: tokenizers.Tokenizer, folder: Path) -> int:
    """The id of the token that ends a text: the configuration's word, else a known name."""
    said = _config_of(folder).get("eos_token")
    said = said.get("content") if isinstance(said, dict) else said
    for token in (said, *_ENDS):
        if isinstance(token, str) and (id := backend.token_to_id(token)) is not None:
            return id
    raise UserError(
        f"tokenizer = '{folder}': no end-of-text token; name it as eos_token in tokenizer_config.json"
    )


def _config_of(folder: Path) -> dict[str, Any]:
    try:
        config = read_json(folder / "tokenizer_config.json")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'tokenizer_config.json'}: not readable: {error}") from None
    return config if isinstance(config, dict) else {}
