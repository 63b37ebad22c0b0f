"""Opening models: anything in Hugging Face's layout, and runs, behind one face."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from activations.tiny_models import (
    CAUSAL,
    CONTEXT,
    ENCODERS,
    LAYERS,
    LAYOUTS,
    WIDTH,
    random_tokens,
)
from cutaway.base import files, hardware
from cutaway.base.errors import UserError
from cutaway.nets.export import export_huggingface
from cutaway.nets.model import ModelReference
from cutaway.nets.reference import load, open_model


def copied(source: Path, place: Path) -> Path:
    shutil.copytree(source, place)
    return place


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_opens_with_its_shape_and_logits(layout: str, tiny_folder) -> None:
    import transformers

    model = open_model(tiny_folder(layout), device="cpu")
    assert (model.n_layers, model.width, model.vocab_size) == (LAYERS, WIDTH, 293)
    assert model.max_length == (None if layout == "bloom" else CONTEXT)
    assert model.causal == (layout in CAUSAL)
    assert model.dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    theirs = getattr(transformers, LAYOUTS[layout][0]).from_pretrained(tiny_folder(layout)).eval()
    tokens = random_tokens()
    with torch.no_grad():
        assert torch.equal(model.logits(tokens), theirs(tokens).logits)
        assert theirs(tokens, use_cache=False).logits.shape[-1] == model.vocab_size


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_head_can_be_given_one_place_of_each_row(layout: str, tiny_folder) -> None:
    model = open_model(tiny_folder(layout), device="cpu")
    tokens, at = random_tokens(), torch.tensor([3, 7])
    whole = model.logits(tokens)
    few = model.logits(tokens, at=at)
    assert few.shape == (2, model.vocab_size)
    torch.testing.assert_close(few, whole[torch.arange(2), at], atol=1e-5, rtol=1e-5)
    assert torch.equal(model.logits(tokens), whole)  # and no hook stays behind


@pytest.mark.parametrize("layout", CAUSAL)
def test_a_causal_model_sees_only_what_came_before(layout: str, tiny_folder) -> None:
    model = open_model(tiny_folder(layout), device="cpu")
    tokens = random_tokens()
    other = tokens.clone()
    other[:, 8:] = random_tokens(seed=1)[:, 8:]
    changed = (model.logits(tokens) - model.logits(other)).abs().amax((0, 2))
    assert changed[:8].max() < 1e-5 < 1e-2 < changed[8:].min()
    assert model.decoder_weight.shape == (model.vocab_size, model.width)


@pytest.mark.parametrize("layout", ENCODERS)
def test_an_encoder_sees_both_ways_and_has_no_direct_unembedding(layout: str, tiny_folder) -> None:
    model = open_model(tiny_folder(layout), device="cpu")
    tokens = random_tokens()
    other = tokens.clone()
    other[:, -1] = random_tokens(seed=1)[:, -1]
    assert (model.logits(tokens) - model.logits(other))[:, 0].abs().amin(-1).max() > 1e-6
    assert model.decoder_weight is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_cache_of_keys_and_values_is_kept(layout: str, tiny_folder) -> None:
    model = open_model(tiny_folder(layout), device="cpu")
    with torch.no_grad():
        assert getattr(model.module(random_tokens()), "past_key_values", None) is None


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_padding_changes_no_logits(layout: str, side: str, tiny_folder) -> None:
    model = open_model(tiny_folder(layout), device="cpu")
    tokens = random_tokens(length=8)
    pad = torch.ones(2, 4, dtype=torch.int64)
    mask = torch.ones(2, 12, dtype=torch.int64)
    if side == "left":
        padded, real = torch.cat([pad, tokens], 1), slice(4, 12)
        mask[:, :4] = 0
    else:
        padded, real = torch.cat([tokens, pad], 1), slice(0, 8)
        mask[:, 8:] = 0
    assert torch.allclose(
        model.logits(padded, mask)[:, real], model.logits(tokens), atol=2e-5, rtol=1e-5
    )


def test_a_run_and_its_export_are_the_same_model(gpt2_run, tmp_path) -> None:
    run = open_model(gpt2_run, device="cpu")
    loaded = load(gpt2_run)
    export_huggingface(loaded.model, loaded.tokenizer, tmp_path / "hf")
    exported = open_model(tmp_path / "hf", device="cpu")
    assert (run.n_layers, run.width, run.max_length) == (
        exported.n_layers,
        exported.width,
        exported.max_length,
    )
    assert run.bos_id == exported.bos_id == loaded.tokenizer.end_of_text
    tokens = run.tokens("The old king sees the river")[:, : run.max_length]
    assert torch.equal(tokens, exported.tokens("The old king sees the river")[:, : run.max_length])
    assert (run.logits(tokens) - exported.logits(tokens)).abs().max() < 1e-5
    assert torch.equal(run.decoder_weight, exported.decoder_weight)
    assert run.reference.tokenizer_sha256 == exported.reference.tokenizer_sha256


def test_a_runs_reference_names_its_checkpoint(gpt2_run) -> None:
    reference = open_model(gpt2_run, device="cpu", step="last").reference
    weights = gpt2_run / "checkpoints" / f"step-{reference.step:06d}" / "model.safetensors"
    assert reference.weights_sha256 == files.sha256(weights)
    assert (reference.kind, reference.id) == ("run", str(gpt2_run))
    assert open_model(gpt2_run, device="cpu", step=80).reference.step == 80 < reference.step


def test_a_run_is_found_by_name_and_by_its_hash_after_a_move(
    gpt2_run, tmp_path, monkeypatch
) -> None:
    before = open_model(gpt2_run, device="cpu").reference
    copied(gpt2_run, tmp_path / "runs" / "moved")
    monkeypatch.chdir(tmp_path)
    after = open_model("moved", device="cpu").reference
    assert after.same_model(before)
    steps = [open_model("moved", device="cpu", step=step).reference for step in (80, 100)]
    assert not steps[0].same_model(steps[1])


def test_a_backpack_has_no_decoder_weight(backpack_run) -> None:
    model = open_model(backpack_run, device="cpu")
    assert model.decoder_weight is None
    assert model.logits(model.tokens("the")).shape[-1] == model.vocab_size


def test_references_survive_json(tiny_folder) -> None:
    reference = open_model(tiny_folder("llama"), device="cpu").reference
    assert reference.weights_sha256 == files.sha256(tiny_folder("llama") / "model.safetensors")
    assert reference.tokenizer_sha256 == files.sha256(tiny_folder("llama") / "tokenizer.json")
    assert ModelReference.from_json(json.dumps(reference.to_json())) == reference
    with pytest.raises(UserError, match="format 2 is newer"):
        ModelReference.from_json({**reference.to_json(), "format": 2})
    for wrong in ({}, "[1]", "no json", {"format": 1, "kind": "run"}):
        with pytest.raises(UserError, match="model reference"):
            ModelReference.from_json(wrong)


def test_weights_in_several_files_are_hashed_together(tiny_folder, tmp_path) -> None:
    from transformers import LlamaForCausalLM

    whole = LlamaForCausalLM.from_pretrained(tiny_folder("llama"))
    whole.save_pretrained(tmp_path / "parts", max_shard_size="30KB")
    names = sorted(path.name for path in (tmp_path / "parts").glob("model-*.safetensors"))
    assert len(names) > 1
    split = open_model(tmp_path / "parts", device="cpu")
    assert torch.equal(
        split.logits(random_tokens()),
        open_model(tiny_folder("llama"), device="cpu").logits(random_tokens()),
    )
    assert split.tokenizer is None
    assert split.reference.tokenizer_sha256 is None
    with pytest.raises(UserError, match="came without a tokenizer"):
        split.tokens("the cat")
    weights = (tmp_path / "parts" / names[-1]).read_bytes()
    (tmp_path / "parts" / names[-1]).write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    changed = open_model(tmp_path / "parts", device="cpu").reference
    assert not changed.same_model(split.reference)
    (tmp_path / "parts" / names[-1]).unlink()
    with pytest.raises(UserError, match=f"{names[-1]}: missing"):
        open_model(tmp_path / "parts")


def test_dtypes(tiny_folder, tmp_path, monkeypatch) -> None:
    from transformers import GPT2LMHeadModel

    assert open_model(tiny_folder("gpt2"), device="cpu", dtype="bfloat16").dtype == torch.bfloat16
    half = GPT2LMHeadModel.from_pretrained(tiny_folder("gpt2")).half()
    half.save_pretrained(tmp_path / "half")
    monkeypatch.setattr(hardware, "precisions", lambda on: ("float32", "bfloat16"))
    assert open_model(tiny_folder("gpt2"), device="cpu").dtype == torch.float32
    assert open_model(tmp_path / "half", device="cpu").dtype == torch.bfloat16
    monkeypatch.setattr(hardware, "precisions", lambda on: ("float32",))
    assert open_model(tmp_path / "half", device="cpu").dtype == torch.float32


def test_float16_is_refused_with_the_reason(gpt2_run) -> None:
    with pytest.raises(UserError, match=r"float16 ends at 65504.*use bfloat16 or float32"):
        open_model(gpt2_run, dtype="float16")
    with pytest.raises(UserError, match="dtype = 'int4': expected one of auto, float32, bfloat16"):
        open_model(gpt2_run, dtype="int4")


def test_pickled_weights_are_never_read(tiny_folder, tmp_path) -> None:
    place = copied(tiny_folder("gpt2"), tmp_path / "pickled")
    (place / "model.safetensors").unlink()
    # would create the file `ran` if anything unpickled it
    (place / "pytorch_model.bin").write_bytes(
        b"cbuiltins\nexec\n(S'open(%a,\"w\")'\ntR." % str(tmp_path / "ran")
    )
    with pytest.raises(UserError, match=r"pytorch_model\.bin: pickled weights are never read"):
        open_model(place)
    assert not (tmp_path / "ran").exists()


def test_damaged_folders_end_in_one_line(tiny_folder, tmp_path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="neither a run"):
        open_model(empty)
    bare = copied(tiny_folder("gpt2"), tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no weights in it"):
        open_model(bare)
    torn = copied(tiny_folder("gpt2"), tmp_path / "torn")
    (torn / "model.safetensors").write_bytes(
        (tiny_folder("gpt2") / "model.safetensors").read_bytes()[:999]
    )
    with pytest.raises(UserError, match="transformers cannot load it") as caught:
        open_model(torn)
    assert "\n" not in str(caught.value)
    unknown = copied(tiny_folder("gpt2"), tmp_path / "unknown")
    (unknown / "config.json").write_text('{"model_type": "telepathy"}')
    with pytest.raises(UserError, match=r"transformers cannot load it.*telepathy"):
        open_model(unknown)


def test_weights_that_the_file_lacks_are_not_made_up(tiny_folder, tmp_path) -> None:
    place = copied(tiny_folder("gpt2"), tmp_path / "deeper")
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, "n_layer": LAYERS + 1}))
    with pytest.raises(
        UserError, match=r"lacks 12 weights of a GPT2LMHeadModel \(transformer\.h\.3"
    ):
        open_model(place)


def test_models_without_one_stack_of_blocks_are_refused(tmp_path) -> None:
    from transformers import AlbertConfig, AlbertForMaskedLM, T5Config, T5ForConditionalGeneration

    small = {"vocab_size": 50, "num_attention_heads": 2, "num_heads": 2}
    T5ForConditionalGeneration(
        T5Config(**small, d_model=16, d_kv=8, d_ff=16, num_layers=1)
    ).save_pretrained(tmp_path / "t5")
    with pytest.raises(UserError, match="t5 has an encoder and a decoder"):
        open_model(tmp_path / "t5")
    AlbertForMaskedLM(
        AlbertConfig(**small, hidden_size=16, embedding_size=8, intermediate_size=16,
                     num_hidden_layers=3)
    ).save_pretrained(tmp_path / "albert")  # fmt: skip
    with pytest.raises(UserError, match="its 3 layers are not 3 modules"):
        open_model(tmp_path / "albert")


def test_a_model_without_a_head_has_states_but_no_logits(tiny_folder, tmp_path) -> None:
    from transformers import LlamaForCausalLM

    from cutaway.activations.capture import capture

    LlamaForCausalLM.from_pretrained(tiny_folder("llama")).model.save_pretrained(tmp_path / "body")
    body, whole = (open_model(p, device="cpu") for p in (tmp_path / "body", tiny_folder("llama")))
    assert body.causal
    assert body.decoder_weight is None
    for site, state in capture(whole, random_tokens(), "all").items():
        assert torch.equal(capture(body, random_tokens(), [site])[site], state)
    with pytest.raises(UserError, match="without a vocabulary head"):
        body.logits(random_tokens())


def test_text_models_inside_multimodal_ones_are_found(tmp_path) -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {**LAYOUTS["gemma3"][1], "vocab_size": 300}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": LAYERS + 2,
              "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path / "multimodal")
    model = open_model(tmp_path / "multimodal", device="cpu")
    assert (model.n_layers, model.width) == (LAYERS, WIDTH)
    assert model.logits(random_tokens()).shape == (2, 12, 300)


def test_an_encoders_class_token_is_its_beginning(tiny_folder, tmp_path) -> None:
    place = copied(tiny_folder("bert"), tmp_path / "bert")
    config = json.loads((place / "tokenizer_config.json").read_text())
    (place / "tokenizer_config.json").write_text(
        json.dumps({**config, "cls_token": {"content": "<|endoftext|>"}})
    )
    assert open_model(tiny_folder("bert"), device="cpu").bos_id is None
    assert open_model(place, device="cpu").bos_id == 0


def test_a_modular_network_has_no_token_sites(grokking_run) -> None:
    with pytest.raises(UserError, match="reads no text, so it has no hidden states by token"):
        open_model(grokking_run)


def test_what_cannot_be_read_is_refused(gpt2_run, tiny_folder) -> None:
    for model in (
        open_model(gpt2_run, device="cpu"),
        open_model(tiny_folder("llama"), device="cpu"),
    ):
        longest = model.max_length
        with pytest.raises(UserError, match=f"{longest + 1} in a row.*at most {longest}"):
            model.logits(torch.zeros(1, longest + 1, dtype=torch.int64))
        with pytest.raises(UserError, match=f"ids 0 to {model.vocab_size - 1}"):
            model.logits(torch.full((1, 3), model.vocab_size))
        with pytest.raises(UserError, match="id -1"):
            model.logits(torch.full((1, 3), -1))
        with pytest.raises(
            UserError, match=r"expected an integer tensor \(batch, T\), got torch.int64 of shape"
        ):
            model.logits(torch.zeros(3, dtype=torch.int64))
        with pytest.raises(UserError, match="holds none"):
            model.logits(torch.zeros(1, 0, dtype=torch.int64))
        with pytest.raises(UserError, match="attention_mask: shape"):
            model.logits(torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 4))


def test_a_run_takes_padding_on_the_right_only(gpt2_run) -> None:
    model = open_model(gpt2_run, device="cpu")
    tokens = random_tokens(length=8)
    mask = torch.ones_like(tokens)
    mask[:, -2:] = 0
    assert torch.allclose(model.logits(tokens, mask)[:, :6], model.logits(tokens[:, :6]), atol=1e-5)
    with pytest.raises(UserError, match="padding on the right only"):
        model.logits(tokens, mask.flip(1))


class TestHub:
    """A hub's local cache, and no network."""

    COMMIT = "0123456789abcdef0123456789abcdef01234567"

    @pytest.fixture(autouse=True)
    def no_network(self, tmp_path, monkeypatch) -> None:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def cache(self, source: Path, tmp_path: Path) -> Path:
        place = tmp_path / "hub" / "models--small--llama"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text(self.COMMIT)
        return copied(source, place / "snapshots" / self.COMMIT)

    def test_the_cache_serves(self, tiny_folder, tmp_path) -> None:
        self.cache(tiny_folder("llama"), tmp_path)
        model = open_model("small/llama", device="cpu")
        assert (model.reference.id, model.reference.revision) == ("small/llama", self.COMMIT)
        assert model.reference.same_model(open_model(tiny_folder("llama"), device="cpu").reference)
        pinned = open_model(f"small/llama@{self.COMMIT}", device="cpu").reference
        assert pinned == model.reference

    def test_what_is_not_there_is_one_line(self) -> None:
        with pytest.raises(UserError, match="'nobody/nothing': no such run or folder") as caught:
            open_model("nobody/nothing")
        assert "\n" not in str(caught.value)

    def test_pickled_weights_in_the_cache_are_refused(self, tiny_folder, tmp_path) -> None:
        place = self.cache(tiny_folder("llama"), tmp_path)
        (place / "model.safetensors").rename(place / "pytorch_model.bin")
        with pytest.raises(UserError, match="pickled weights are never read"):
            open_model("small/llama")

    @pytest.mark.parametrize("name", ["./here", "a/b/c", "runs/none", Path("here")])
    def test_paths_are_not_looked_for_on_the_hub(self, name: str | Path) -> None:
        with pytest.raises(UserError, match="no run of this name or path"):
            open_model(name)
