"""GGUF files open as the models they hold: dense truth, names, the cache, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("gguf")
pytest.importorskip("accelerate")

from conftest import DATA, PATIENCE
from cutaway.base.errors import UserError
from cutaway.nets import ModelReference, open_model
from cutaway.nets.gguf import converted
from nets import gguf_files
from nets.gguf_files import write

TOKENS = torch.arange(40).reshape(2, 20)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("CUTAWAY_CACHE", str(folder))
    return folder


def logits(path: Path, **options) -> torch.Tensor:
    return open_model(path, device="cpu", **options).logits(TOKENS)


def embedding_in_8(name: str) -> str:
    return "Q8_0" if name == "token_embd.weight" else "Q4_0"


# -- the model is the one in the file --------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "file_type", "quantisation"),
    [
        ("F32", 0, None),
        ("F16", 1, None),
        ("BF16", 32, None),
        ("Q8_0", 7, "8 bits (Q8_0)"),
        ("Q5_1", 9, "5 bits (Q5_1)"),
        ("Q4_0", 2, "4 bits (Q4_0)"),
        ("Q4_0", None, "4 bits (Q4_0)"),
        ("Q4_0", 1, "4 bits (Q4_0)"),  # the file calls itself F16
        ("Q8_0", 15, "8 bits (Q8_0)"),  # the file calls itself Q4_K_M
        (embedding_in_8, 2, "4 bits (Q4_0)"),
        (embedding_in_8, None, "4 to 8 bits (Q4_0, Q8_0)"),
    ],
)
def test_the_model_computes_what_the_dequantised_weights_do(
    tmp_path, kind, file_type, quantisation
):
    written = write(tmp_path / "tiny.gguf", kind, file_type=file_type)
    model = open_model(written.path, device="cpu", dtype="float32")
    torch.testing.assert_close(model.logits(TOKENS), written.truth(TOKENS).logits)
    state = model.module.state_dict()
    assert all(torch.equal(state[name], part) for name, part in written.truth.state_dict().items())
    assert model.reference.quantisation == quantisation
    assert model.reference.id == str(written.path)


@pytest.mark.parametrize(
    ("kind", "stored"),
    [("F32", "float32"), ("Q8_0", "float32"), ("F16", "float16"), ("BF16", "bfloat16")],
)
def test_weights_are_kept_in_16_bits_only_where_no_value_changes(tmp_path, kind, stored):
    model = gguf_files.llama()
    for name, part in model.named_parameters():
        if "norm" in name:
            torch.nn.init.ones_(part)
    found = converted(write(tmp_path / "tiny.gguf", kind, model=model).path)
    assert json.loads((found.folder / "config.json").read_text())["dtype"] == stored
    odd = converted(write(tmp_path / "odd.gguf", kind, model=gguf_files.llama(1)).path)
    assert json.loads((odd.folder / "config.json").read_text())["dtype"] == "float32"


def test_a_tied_head_stays_tied(tmp_path):
    model = gguf_files.llama(tie_word_embeddings=True)
    written = write(tmp_path / "tied.gguf", "Q8_0", model=model)
    opened = open_model(written.path, device="cpu")
    torch.testing.assert_close(opened.logits(TOKENS), written.truth(TOKENS).logits)
    assert opened.decoder_weight is opened.module.get_input_embeddings().weight


def test_the_folder_transformers_itself_opens(tmp_path):
    from transformers import AutoModelForCausalLM

    written = write(tmp_path / "tiny.gguf", "Q4_0")
    again = AutoModelForCausalLM.from_pretrained(converted(written.path).folder)
    assert getattr(again.config, "quantization_config", None) is None
    torch.testing.assert_close(again(TOKENS).logits, written.truth(TOKENS).logits)


@pytest.mark.parametrize("add_bos", [True, False])
def test_the_tokenizer_comes_along_with_bos_and_chat_template(tmp_path, add_bos):
    from transformers import AutoTokenizer

    written = write(
        tmp_path / "tiny.gguf",
        vocabulary=lambda writer: gguf_files.byte_level(writer, add_bos=add_bos),
    )
    model, folder = open_model(written.path, device="cpu"), converted(written.path).folder
    names = gguf_files.alphabet()
    plain = [names.index("Ġthe"), names.index("a")]
    bos, eos = names.index(gguf_files.BOS), names.index(gguf_files.EOS)
    assert model.tokens(" thea").tolist() == [[bos] * add_bos + plain]
    assert model.tokens(" thea", special=False).tolist() == [plain]
    assert (model.bos_id, model.tokenizer.end_of_text) == (bos, eos)
    theirs = AutoTokenizer.from_pretrained(folder)
    assert theirs(" thea").input_ids == [bos] * add_bos + plain
    assert theirs.chat_template == gguf_files.TEMPLATE
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["add_bos_token"] is add_bos
    assert config["chat_template"] == gguf_files.TEMPLATE
    assert (config["bos_token"], config["eos_token"]) == (gguf_files.BOS, gguf_files.EOS)


@pytest.mark.skipif(not (DATA / "stories260K").is_dir(), reason="needs the shared data")
@pytest.mark.parametrize("kind", ["F32", "Q4_0"])
def test_a_real_small_llama_reads_as_it_does_without_the_detour(tmp_path, kind):
    dense = open_model(DATA / "stories260K", device="cpu", dtype="float32")
    definition = json.loads((DATA / "stories260K" / "tokenizer.json").read_text())["model"]
    tokens = sorted(definition["vocab"], key=definition["vocab"].get)

    def sentencepiece(writer):
        kinds = [
            6 if t.startswith("<0x") else {"<unk>": 2, "<s>": 3, "</s>": 3}.get(t, 1)
            for t in tokens
        ]
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([-float(place) for place in range(len(tokens))])
        writer.add_token_types(kinds)
        writer.add_token_merges(
            [one if isinstance(one, str) else " ".join(one) for one in definition["merges"]]
        )
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)

    def where_rows_allow(name: str) -> str:
        return "F32" if name.endswith("ffn_down.weight") else kind  # rows of 172

    written = write(
        tmp_path / "stories.gguf", where_rows_allow, model=dense.module, vocabulary=sentencepiece
    )
    opened = open_model(written.path, device="cpu", dtype="float32")
    text = "Once upon a time, there was a little girl named Lily."
    ids = opened.tokens(text)
    assert ids.tolist() == dense.tokens(text).tolist()
    torch.testing.assert_close(opened.logits(ids), written.truth(ids).logits)


# -- names -----------------------------------------------------------------------------------


def test_a_folder_with_one_file_is_that_file(tmp_path):
    folder = tmp_path / "downloaded"
    folder.mkdir()
    (folder / "README.md").write_text("about")
    written = write(folder / "tiny.gguf", "Q8_0")
    assert open_model(folder).reference.id == str(written.path)
    (folder / "config.json").write_text("{}")  # as repositories of such files have it
    assert open_model(str(folder)).reference.id == str(written.path)


def test_a_file_without_the_ending_is_known_by_its_first_bytes(tmp_path):
    written = write(tmp_path / "tiny.gguf", "Q8_0")
    blob = written.path.rename(tmp_path / "sha256-abc")
    torch.testing.assert_close(logits(blob), written.truth(TOKENS).logits)


def test_a_file_that_moved_is_the_same_model_and_a_changed_one_is_not(tmp_path):
    first = write(tmp_path / "first.gguf", "Q8_0")
    before = open_model(first.path).reference
    moved = shutil.move(first.path, tmp_path / "moved.gguf")
    assert open_model(moved).reference.same_model(before)
    with pytest.raises(UserError, match=r"first\.gguf': no such file"):
        open_model(before.id)
    other = write(tmp_path / "first.gguf", "Q8_0", model=gguf_files.llama(seed=1))
    assert not open_model(other.path).reference.same_model(before)


def test_a_file_written_over_in_place_is_read_again_whatever_its_time_says(tmp_path):
    path = write(tmp_path / "tiny.gguf", "Q8_0").path
    state, before = path.stat(), logits(path)
    other = write(tmp_path / "other.gguf", "Q8_0", model=gguf_files.llama(seed=1))
    with open(path, "r+b") as file:
        file.write(other.path.read_bytes())
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert path.stat().st_size == state.st_size
    assert not torch.equal(logits(path), before)


def test_old_references_know_no_quantisation_and_dense_ones_write_none(tmp_path):
    dense = open_model(write(tmp_path / "dense.gguf").path).reference
    plain = dense.to_json()
    assert "quantisation" not in plain
    assert ModelReference.from_json(plain) == dense
    assert dense.dequantised == ""
    short = open_model(write(tmp_path / "short.gguf", "Q4_0", file_type=2).path).reference
    assert ModelReference.from_json(short.to_json()) == short
    assert short.dequantised == "dequantised from 4 bits (Q4_0)"


# -- scaled positions ------------------------------------------------------------------------


def test_linearly_scaled_positions_are_read(tmp_path):
    scaled = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    written = write(
        tmp_path / "tiny.gguf",
        model=gguf_files.llama(rope_parameters=scaled),
        settings={"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    )
    torch.testing.assert_close(logits(written.path), written.truth(TOKENS).logits)


def test_llama_3s_table_of_divisors_is_read(tmp_path):
    scaled = {"rope_type": "llama3", "factor": 32.0, "rope_theta": 500000.0, "low_freq_factor": 1.0,
              "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
    model = gguf_files.llama(rope_parameters=scaled)
    half = np.arange(0, 16, 2) / 16
    plain = 1.0 / 500000.0**half
    divisors = (plain / model.model.rotary_emb.inv_freq.numpy()).astype(np.float32)
    assert divisors.max() == pytest.approx(32)
    written = write(tmp_path / "tiny.gguf", model=model, more={"rope_freqs.weight": divisors})
    torch.testing.assert_close(logits(written.path), written.truth(TOKENS).logits)
    other = divisors.copy()
    other[0] = 7.0
    write(tmp_path / "odd.gguf", model=model, more={"rope_freqs.weight": other})
    with pytest.raises(UserError, match=r"rope_freqs\.weight scales positions in a way"):
        open_model(tmp_path / "odd.gguf")


# -- the cache -------------------------------------------------------------------------------


def test_a_second_opening_needs_neither_the_packages_nor_a_conversion(tmp_path, monkeypatch):
    written = write(tmp_path / "tiny.gguf", "Q4_0")
    first = converted(written.path)
    before = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    known = importlib.util.find_spec
    for package in ("gguf", "accelerate"):
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *rest, without=package: None if name == without else known(name, *rest),
        )
        assert converted(written.path) == first
        other = write(tmp_path / f"{package}.gguf", model=gguf_files.llama(seed=len(package)))
        with pytest.raises(
            UserError, match=rf"needs the package {package}: pip install 'cutaway\["
        ):
            open_model(other.path)
    assert {path: path.stat().st_mtime_ns for path in first.folder.iterdir()} == before


def _truncate(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 1000)


def _flip(folder: Path) -> None:
    with open(folder / "model.safetensors", "r+b") as file:
        file.seek(-5, os.SEEK_END)
        byte = file.read(1)
        file.seek(-5, os.SEEK_END)
        file.write(bytes([byte[0] ^ 64]))


DAMAGES = {
    "truncated": _truncate,
    "flipped": _flip,
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "no list": lambda folder: (folder / "gguf.json").unlink(),
    "list of nothing": lambda folder: (folder / "gguf.json").write_text("{}"),
    "list is no JSON": lambda folder: (folder / "gguf.json").write_text("{"),
    "other settings": lambda folder: (folder / "config.json").write_text("{}"),
    "empty": lambda folder: [path.unlink() for path in folder.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_conversion_is_made_again(tmp_path, capsys, damage):
    written = write(tmp_path / "tiny.gguf", "Q8_0")
    damage(converted(written.path).folder)
    torch.testing.assert_close(logits(written.path), written.truth(TOKENS).logits)
    assert "made again" in capsys.readouterr().err


OPEN = "import sys; from cutaway.nets.gguf import converted; converted(__import__('pathlib').Path(sys.argv[1]))"


def test_two_processes_convert_a_file_once(tmp_path, cache):
    written = write(tmp_path / "tiny.gguf", "Q8_0")
    both = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, written.path], stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=PATIENCE)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "".join(said).count("converted once") == 1
    torch.testing.assert_close(logits(written.path), written.truth(TOKENS).logits)


@pytest.mark.parametrize("at", ["_read", "_save", "_save_tokenizer"])
def test_a_conversion_that_is_killed_leaves_nothing_that_is_taken_for_one(tmp_path, cache, at):
    written = write(tmp_path / "tiny.gguf", "Q8_0")
    kill = f"""
import os, signal
from cutaway.nets import gguf_conversion as c
was = c.{at}
def killed(*given):
    was(*given)
    os.kill(os.getpid(), signal.SIGKILL)
c.{at} = killed
"""
    ended = subprocess.run([sys.executable, "-c", kill + OPEN, written.path], timeout=PATIENCE)
    assert ended.returncode == -9
    assert [path for path in (cache / "gguf").iterdir() if path.name.endswith(".tmp")]
    torch.testing.assert_close(logits(written.path), written.truth(TOKENS).logits)
    assert not [path for path in (cache / "gguf").iterdir() if path.name.endswith(".tmp")]


def test_what_lies_beside_the_file_and_in_the_working_directory_is_not_read(tmp_path, monkeypatch):
    written = write(tmp_path / "tiny.gguf", "Q8_0")
    other = tmp_path / "elsewhere"
    other.mkdir()
    write(other / "tiny.gguf", "Q8_0", model=gguf_files.llama(seed=1))
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "nobody/nothing"}')
    monkeypatch.chdir(other)
    torch.testing.assert_close(logits(written.path), written.truth(TOKENS).logits)
