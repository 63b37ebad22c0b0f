"""The one place that knows how `transformers` lays its models out.

Loading from the hub's cache or a folder; where a model's parts are is the matter of `layouts`.
`tests/laws/test_pretrained_architectures.py` lists what is tested. Code from the hub is never run,
pickled weights are never read.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cutaway.base import files
from cutaway.base.errors import UserError
from cutaway.nets import gguf_hub, layouts
from cutaway.nets.anatomy import Anatomy
from cutaway.nets.layout_check import checked

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from cutaway.text.tokenizers import Tokenizer

_TIMEOUT = 10  # seconds to wait for the hub's first answer
_INDEX = "model.safetensors.index.json"
_WANTED = ["config.json", "generation_config.json", "tokenizer*", "chat_template.jinja", "vocab.*", "merges.txt",
           "model.safetensors", "model-*.safetensors", _INDEX]  # fmt: skip
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def snapshot(id: str, revision: str | None = None) -> Path:
    """The folder of a hub model in the local cache, fetched first where it is not there.

    Only what is needed is fetched: configuration, tokenizer, safetensors, or the only GGUF file of a
    repository without them. Without a network the cache serves. Raises UserError where neither has it.
    """
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(_TIMEOUT))
    from huggingface_hub import HfApi, snapshot_download

    cached = None
    try:
        cached = Path(snapshot_download(id, revision=revision, local_files_only=True))
        if gguf_hub.alone(cached) or ((cached / "config.json").is_file() and _safetensors(cached)):
            return cached
    except Exception:  # not in the cache, or not an id at all: the question below says which
        pass
    try:
        # One quick question first: without a network the download would retry for long.
        about = HfApi().model_info(id, revision=revision, timeout=_TIMEOUT)
        names = [one.rfilename for one in about.siblings or ()]
        patterns = gguf_hub.wanted(id, names) or _WANTED
        return Path(snapshot_download(id, revision=revision, allow_patterns=patterns))
    except UserError:
        raise
    except Exception as error:  # network, permissions, a malformed id
        if cached is not None and (cached / "config.json").is_file():
            return cached  # and let the loading say what is missing from it
        raise UserError(
            f"model = {id!r}: no such run or folder here, and the Hugging Face hub did not give it "
            f"({_first_line(error)})"
        ) from None


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model's folder, in order of name.

    Raises UserError where one is missing, and for pickled weights, which could run code.
    """
    found = _safetensors(folder)
    if found:
        return found
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled:
        raise UserError(
            f"{folder / pickled[0]}: pickled weights are never read, since reading them can run "
            "any code; convert them to model.safetensors (save_pretrained does)"
        )
    raise UserError(f"{folder}: no weights in it (model.safetensors, or parts with {_INDEX})")


def load_module(folder: Path, dtype: str, device: torch.device) -> PreTrainedModel:
    """The model in a folder of Hugging Face's layout, in eval mode, its weights without gradients.

    `dtype` is `float32`, `bfloat16` or `auto`: bfloat16 where the file holds 16 bits and the
    device has bfloat16 arithmetic, else float32. Raises UserError with the reason in one line for
    whatever cannot be loaded whole.
    """
    weight_files(folder)
    _require_files(folder)
    with _quiet():
        try:
            import transformers

            options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
            config = transformers.AutoConfig.from_pretrained(folder, **options)
            _require_one_stack(folder, config)
            module, loaded = _class_for(config).from_pretrained(
                folder,
                config=config,
                dtype=_dtype(config, dtype, device),
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
        except UserError:
            raise
        except Exception as error:  # the library raises OSError, ValueError, its own and others
            raise UserError(
                f"{folder}: transformers cannot load it: {_first_line(error)}"
            ) from None
    missing = sorted(name for name in loaded["missing_keys"] if "pooler" not in name)
    if missing:
        raise UserError(
            f"{folder}: the file lacks {len(missing)} weights of a {type(module).__name__} "
            f"({missing[0]}, ...)"
        )
    # No cache of keys and values: whole contexts are read once.
    module.config.use_cache = module.config.get_text_config().use_cache = False
    return module.to(device).eval().requires_grad_(False)


def anatomy(module: PreTrainedModel, folder: Path) -> Anatomy:
    """Where the sites of a loaded model are. UserError for a layout without a list of blocks."""
    config = module.config.get_text_config()
    masked = _is_masked(module)
    found = checked(module, layouts.by_name(module, config, masked=masked))
    return Anatomy(
        blocks=found.blocks,
        attention=found.attention,
        mlp=found.mlp,
        forward=_forward(module),
        width=config.hidden_size,
        vocab_size=module.get_input_embeddings().weight.shape[0],
        max_length=_max_length(module, config),
        causal=_is_causal(found.blocks[0], masked),
        decoder_weight=found.head.weight,
        bos_id=_class_token(folder)
        if masked
        else _identifier(getattr(config, "bos_token_id", None)),
        decoder_bias=found.head.bias,
        decoder_scale=found.head.scale,
        decoder_cap=found.head.cap,
        middle=found.middle,
        heads=found.heads,
        neurons=found.neurons,
        words=found.words,
        reasons=found.reasons,
    )


def tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer beside a model, None where the folder has none that `text.tokenizers` reads."""
    from cutaway.text.tokenizers import Tokenizer

    known = ("tokenizer.json", "encoder.json", "vocab.json")
    return Tokenizer.load(folder) if any((folder / name).is_file() for name in known) else None


# -- loading -------------------------------------------------------------------------------


def _require_files(folder: Path) -> None:
    """UserError where something in the folder is no file: the library would wait for its content."""
    for path in sorted(folder.iterdir()):
        try:
            if not path.is_dir():
                files.require_regular(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None


def _safetensors(folder: Path) -> list[Path]:
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if not (folder / _INDEX).is_file():
        return []
    try:
        names = sorted(set(files.read_json(folder / _INDEX)["weight_map"].values()))
        found = [folder / name for name in names]
        # a link is allowed: in the hub's cache every file is one, to a folder of contents
        if odd := [name for name in names if not files.is_plain(name)]:
            raise UserError(f"{folder / _INDEX}: {odd[0]!r} is not the name of a file beside it")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{folder / _INDEX}: not a readable index of weights") from None
    if absent := [path for path in found if not path.is_file()]:
        raise UserError(f"{absent[0]}: missing, and {_INDEX} names it")
    return found


def _class_for(config: PretrainedConfig) -> Any:
    """The class that has the vocabulary head the weights were saved with, if they were."""
    import transformers
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
    )

    saved = (config.architectures or [""])[0]
    masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING
    if saved.endswith("ForMaskedLM") or (masked and (not saved or "PreTraining" in saved)):
        return transformers.AutoModelForMaskedLM
    causal = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
    if saved.endswith(causal) or (not saved and type(config) in MODEL_FOR_CAUSAL_LM_MAPPING):
        return transformers.AutoModelForCausalLM
    return transformers.AutoModel


def _dtype(config: PretrainedConfig, wanted: str, device: torch.device) -> torch.dtype:
    from cutaway.base import hardware

    if wanted == "auto":
        stored = config.get_text_config().dtype or config.dtype
        short = stored in (torch.bfloat16, torch.float16)
        wanted = "bfloat16" if short and "bfloat16" in hardware.precisions(device) else "float32"
    return getattr(torch, wanted)


def _require_one_stack(folder: Path, config: PretrainedConfig) -> None:
    if config.is_encoder_decoder:
        raise UserError(
            f"{folder}: {config.model_type} has an encoder and a decoder; accepted are models with "
            "one stack of blocks, causal or encoder"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and load reports; what matters is raised."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


# -- the parts of a model ------------------------------------------------------------------


def _forward(module: PreTrainedModel) -> Callable[[Tensor, Tensor | None, Tensor | None], Tensor]:
    takes = inspect.signature(module.forward).parameters
    # RoBERTa and kin count positions themselves, from where the padding token is
    padding = _position_padding(module)
    counts = "position_ids" in takes and padding is None

    def positions_of(attention_mask: Tensor) -> dict[str, Tensor]:
        return {"position_ids": (attention_mask.cumsum(-1) - 1).clamp(min=0)} if counts else {}

    read_rightly = _sides_read(module, positions_of, padding or 0)

    def forward(tokens: Tensor, attention_mask: Tensor | None, at: Tensor | None) -> Tensor:
        positions = {}
        if attention_mask is not None:
            attention_mask = attention_mask.long()
            _require_side(module, attention_mask, read_rightly)
            if padding is not None:
                tokens = tokens.masked_fill(attention_mask == 0, padding)
            positions = positions_of(attention_mask)
        with _head_reads(module, at):
            output = module(input_ids=tokens, attention_mask=attention_mask, **positions)
        if getattr(output, "logits", None) is None:
            raise UserError(f"{type(module).__name__}: was saved without a vocabulary head")
        if at is None:
            return output.logits
        if output.logits.shape[1] == 1:
            return output.logits[:, 0]
        # a model that did not send its states through the head it names
        return output.logits[torch.arange(len(at), device=at.device), at]

    return forward


def _sides_read(
    module: PreTrainedModel, positions_of: Callable[[Tensor], dict[str, Tensor]], padding: int
) -> set[str]:
    """The sides, `left` and `right`, on which padding leaves the states of three tokens as they are."""
    size = module.get_input_embeddings().weight.shape[0]
    ids = [size // 3, size // 2, 2 * size // 3]
    rightly: set[str] = set()
    with torch.no_grad():
        try:
            alone = module.base_model(input_ids=torch.tensor([ids], device=module.device))[0]
            near = 64 * torch.finfo(alone.dtype).eps * alone.abs().max().clamp(min=1.0)
            for side, row in (("left", [padding] * 3 + ids), ("right", ids + [padding] * 3)):
                mask = torch.tensor([[0] * 3 + [1] * 3 if side == "left" else [1] * 3 + [0] * 3])
                mask, tokens = mask.to(module.device), torch.tensor([row], device=module.device)
                read = module.base_model(tokens, attention_mask=mask, **positions_of(mask))[0]
                own = read[:, 3:] if side == "left" else read[:, :3]
                if not bool((own - alone).abs().max() > near):  # NaN: damaged weights tell nothing
                    rightly.add(side)
        except Exception:  # its own error says so when it runs
            return {"left", "right"}
    return rightly


def _require_side(module: nn.Module, attention_mask: Tensor, rightly: set[str]) -> None:
    """Refuse padding on a side on which the model's own code lets it change states."""
    for side, sign in (("left", 1), ("right", -1)):
        if side not in rightly and bool((sign * attention_mask.diff(dim=1) > 0).any()):
            other = (
                "on the right only"
                if side == "left" and "right" in rightly
                else ("on the left only" if "left" in rightly else "on neither side")
            )
            raise UserError(
                f"attention_mask: {type(module).__name__} reads padding {other}; read texts of one "
                "length together, or each alone"
            )


@contextmanager
def _head_reads(module: PreTrainedModel, at: Tensor | None) -> Iterator[None]:
    """Within it the vocabulary's head is given one state of each row, (batch, 1, d)."""
    if at is None:
        yield
        return
    head = module.get_output_embeddings()
    if head is None:
        raise UserError(f"{type(module).__name__}: was saved without a vocabulary head")
    rows = torch.arange(len(at), device=at.device)
    handle = head.register_forward_pre_hook(lambda _, given: (given[0][rows, at][:, None],))
    try:
        yield
    finally:
        handle.remove()


def _position_padding(module: nn.Module) -> int | None:
    for name, part in module.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding):
            return part.padding_idx
    return None


def _max_length(module: nn.Module, config: PretrainedConfig) -> int | None:
    longest = getattr(config, "max_position_embeddings", None)
    longest = longest if isinstance(longest, int) and longest > 0 else None  # XLNet says -1
    padding = _position_padding(module)
    return longest if longest is None or padding is None else longest - padding - 1


def _is_masked(module: nn.Module) -> bool:
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

    return type(module) in MODEL_FOR_MASKED_LM_MAPPING.values()


def _is_causal(block: nn.Module, masked: bool) -> bool:
    """What the attention says of itself; where it does not, a model of masked words is not."""
    said = [part.is_causal for part in block.modules() if hasattr(part, "is_causal")]
    return any(said) if said else not masked


def _identifier(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _class_token(folder: Path) -> int | None:
    """An encoder's token for the beginning, which its configuration does not name."""
    try:
        said = files.read_json(folder / "tokenizer_config.json")["cls_token"]
        said = said["content"] if isinstance(said, dict) else said
        added = files.read_json(folder / "tokenizer.json")["added_tokens"]
        return next((token["id"] for token in added if token["content"] == said), None)
    except (OSError, ValueError, KeyError, TypeError):
        return None
