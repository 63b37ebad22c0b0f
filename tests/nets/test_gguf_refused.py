"""GGUF files that are damaged or that cannot be read rightly: one clear line each, before slow work."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gguf")
pytest.importorskip("accelerate")

from cutaway.base.errors import UserError
from cutaway.nets import open_model
from nets import gguf_files
from nets.gguf_files import write

START = 24  # bytes before the first setting


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("CUTAWAY_CACHE", str(folder))
    return folder


def patched(path: Path, at: int, *values: int, form: str = "<Q") -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(struct.pack(form, *values))


def after(path: Path, text: str) -> int:
    """Where the first `text` that is preceded by its length ends."""
    found = path.read_bytes().index(struct.pack("<Q", len(text)) + text.encode())
    return found + 8 + len(text)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def cut_at(size: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, size if size > 0 else path.stat().st_size + size)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (emptied, "not a GGUF file (empty"),
    "text": (lambda path: path.write_text("a model, believe me"), "not a GGUF file"),
    "web page": (lambda path: path.write_text("<!doctype html>"), "not a GGUF file"),
    "a pointer to it": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
        "not a GGUF file",
    ),
    "wrong magic": (lambda path: patched(path, 0, 0x46554748, form="<I"), "not a GGUF file"),
    "4 bytes": (cut_at(4), "truncated"),
    "23 bytes": (cut_at(23), "truncated"),
    "header cut": (cut_at(300), ""),
    "last byte missing": (cut_at(-33), "truncated"),
    "half": (cut_at(20_000), "truncated"),
    "version 1": (lambda path: patched(path, 4, 1, form="<I"), "GGUF version 1"),
    "version 99": (lambda path: patched(path, 4, 99, form="<I"), "GGUF version 99"),
    "big-endian": (lambda path: patched(path, 4, 3, form=">I"), "big-endian"),
    "no tensors": (lambda path: patched(path, 8, 0), "holds no tensors"),
    "tensors beyond": (lambda path: patched(path, 8, 2**40), "tells of 1,099,511,627,776 tensors"),
    "tensors at most": (lambda path: patched(path, 8, 2**64 - 1), "tensors in"),
    "settings beyond": (lambda path: patched(path, 16, 2**63), "settings in"),
    "a few tensors more": (lambda path: patched(path, 8, 100), ""),
    "a few settings more": (lambda path: patched(path, 16, 60), ""),
    "a long key": (lambda path: patched(path, START, 2**50), "a name of"),
    "a long text": (
        lambda path: patched(path, after(path, "general.architecture") + 4, 2**60),
        "truncated or damaged",
    ),
    "an unknown type": (
        lambda path: patched(path, after(path, "general.architecture"), 77, form="<I"),
        "a setting of type 77",
    ),
    "a long list": (
        lambda path: patched(path, after(path, "tokenizer.ggml.tokens") + 8, 2**61),
        "a list of",
    ),
    "a list of lists": (
        lambda path: patched(path, after(path, "tokenizer.ggml.tokens") + 4, 9, form="<I"),
        "a list of type 9",
    ),
    "dimensions": (
        lambda path: patched(path, after(path, "token_embd.weight"), 4000, form="<I"),
        "4000 dimensions",
    ),
    "a huge tensor": (
        lambda path: patched(path, after(path, "token_embd.weight") + 4, 2**50, 2**40, form="<QQ"),
        "truncated",
    ),
    "an empty tensor": (
        lambda path: patched(path, after(path, "token_embd.weight") + 12, 0),
        "cannot be Q8_0",
    ),
    "odd rows": (
        lambda path: patched(path, after(path, "token_embd.weight") + 4, 63),
        "cannot be Q8_0",
    ),
    "an unknown way of storing": (
        lambda path: patched(path, after(path, "token_embd.weight") + 20, 999, form="<I"),
        "number 999",
    ),
    "a tensor beyond": (
        lambda path: patched(path, after(path, "token_embd.weight") + 24, 2**40),
        "truncated",
    ),
    "an odd place": (
        lambda path: patched(path, after(path, "token_embd.weight") + 24, 7),
        "no multiple of 32",
    ),
    "one over another": (
        lambda path: patched(path, after(path, "output_norm.weight") + 16, 0),
        "overlap",
    ),
    "many blocks": (
        lambda path: patched(path, after(path, "llama.block_count") + 4, 2**31, form="<I"),
        "block_count = 2,147,483,648",
    ),
    "no blocks": (
        lambda path: patched(path, after(path, "llama.block_count") + 4, 0, form="<I"),
        "block_count = 0",
    ),
    "width": (
        lambda path: patched(path, after(path, "llama.embedding_length") + 4, 128, form="<I"),
        "embedding_length = 128",
    ),
    "one block fewer": (
        lambda path: patched(path, after(path, "llama.block_count") + 4, 1, form="<I"),
        "",
    ),
    "inner width": (
        lambda path: patched(path, after(path, "llama.feed_forward_length") + 4, 95, form="<I"),
        "",
    ),
    "vocabulary": (
        lambda path: patched(path, after(path, "llama.vocab_size") + 4, 9, form="<I"),
        "",
    ),
    "epsilon": (
        lambda path: patched(
            path, after(path, "llama.attention.layer_norm_rms_epsilon") + 4, 0x7FC00000, form="<I"
        ),
        "expected a finite number",
    ),
    "no heads": (
        lambda path: patched(path, after(path, "llama.attention.head_count") + 4, 0, form="<I"),
        "",
    ),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_gets_one_line_that_names_it(tmp_path, cache, damage, said):
    path = write(tmp_path / "tiny.gguf", "Q8_0").path
    damage(path)
    with pytest.raises(UserError) as error:
        open_model(path)
    line = str(error.value)
    assert str(path) in line
    assert said in line
    assert "\n" not in line
    left = [one for one in cache.glob("gguf/*") if one.is_dir() and one.name != "checksums"]
    assert left == []


@pytest.mark.parametrize("size", range(24, 4000, 331))
def test_a_file_cut_anywhere_is_refused(tmp_path, size):
    path = write(tmp_path / "tiny.gguf", "Q8_0").path
    os.truncate(path, size)
    with pytest.raises(UserError, match=r"tiny\.gguf: (truncated|damaged)"):
        open_model(path)


def refused(path: Path, match: str, **how) -> None:
    written = write(path, **how).path
    with pytest.raises(UserError, match=match):
        open_model(written)


def test_values_that_are_not_finite_are_refused(tmp_path):
    model = gguf_files.llama()
    model.model.norm.weight.data[3] = float("nan")
    refused(tmp_path / "tiny.gguf", r"norm\.weight holds values that are not finite", model=model)


def test_an_unknown_architecture_names_the_known_ones(tmp_path):
    refused(
        tmp_path / "tiny.gguf",
        r"architecture 'lama'; did you mean 'llama'\?; accepted are .*gemma3",
        architecture="lama",
    )


@pytest.mark.parametrize("architecture", ["t5", "t5encoder", "clip", "bert"])
def test_models_without_one_causal_stack_are_refused(tmp_path, architecture):
    refused(tmp_path / "tiny.gguf", f"architecture '{architecture}'", architecture=architecture)


def test_a_missing_weight_and_one_too_many_are_refused(tmp_path):
    refused(
        tmp_path / "fewer.gguf",
        r"lacks 1 weights.*layers\.1\.mlp\.up",
        without=("blk.1.ffn_up.weight",),
    )
    refused(
        tmp_path / "more.gguf",
        "would be left out",
        more={"blk.0.attn_q.bias": np.ones(gguf_files.WIDTH, np.float32)},
    )


def test_positions_that_would_be_read_wrongly_are_refused(tmp_path):
    refused(
        tmp_path / "kind.gguf",
        r"rope\.scaling\.type = 'odd'",
        settings={"rope.scaling.type": "odd"},
    )
    refused(
        tmp_path / "long.gguf",
        "longrope",
        more={"rope_factors_long.weight": np.ones(8, np.float32)},
    )


def test_an_unknown_tokenizer_is_refused(tmp_path):
    def odd(writer):
        gguf_files.byte_level(writer)
        writer.kv_data[0]["tokenizer.ggml.model"].value = "rwkv"

    refused(tmp_path / "tiny.gguf", "its tokenizer cannot be read: .*rwkv", vocabulary=odd)


def test_parts_and_pieces_say_how_they_are_joined(tmp_path):
    whole = write(tmp_path / "tiny.gguf", "Q8_0").path
    part = whole.rename(tmp_path / "tiny-00002-of-00005.gguf")
    with pytest.raises(UserError, match=r"part 2 of 5 .* llama-gguf-split --merge"):
        open_model(part)
    folder = tmp_path / "pieces"
    folder.mkdir()
    content = part.read_bytes()
    (folder / "tiny.gguf.part00").write_bytes(content[:9000])
    (folder / "tiny.gguf.part01").write_bytes(content[9000:])
    for place in (folder, folder / "tiny.gguf.part00", folder / "tiny.gguf.part01"):
        with pytest.raises(UserError, match=r"cat tiny\.gguf\.part\* > tiny\.gguf"):
            open_model(place)


def test_a_folder_with_several_and_one_with_none_are_refused(tmp_path):
    first = write(tmp_path / "a.gguf").path
    (tmp_path / "b.gguf").write_bytes(first.read_bytes())
    with pytest.raises(UserError, match=r"holds 2 GGUF files; name one of them \(a.gguf, b.gguf\)"):
        open_model(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="nor a GGUF file"):
        open_model(tmp_path / "none")


def test_pipes_folders_and_missing_files_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "folder.gguf").mkdir()
    (tmp_path / "gone.gguf").symlink_to(tmp_path / "nowhere")
    for name, said in (("pipe", "pipe"), ("folder", "nor a GGUF file"), ("gone", "No such file"),
                       ("missing", "no such file")):  # fmt: skip
        with pytest.raises(UserError, match=said):
            open_model(tmp_path / f"{name}.gguf")


def test_a_full_disk_is_told_before_the_conversion(tmp_path, monkeypatch):
    from cutaway.base import files

    written = write(tmp_path / "tiny.gguf", "Q8_0")
    monkeypatch.setattr(files, "free_bytes", lambda path: 1000)
    with pytest.raises(UserError, match=r"needed, 1\.0 KB free on that disk"):
        open_model(written.path)


def test_a_file_that_is_no_model_ends_the_command_with_one_line(tmp_path):
    (tmp_path / "page.gguf").write_text("<!doctype html>")
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "cutaway",
            "extract",
            tmp_path / "page.gguf",
            "--out",
            tmp_path / "out",
        ],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "not a GGUF file" in ended.stderr
