"""One GGUF file to a folder in Hugging Face's layout: weights, configuration, tokenizer.

`transformers` reads the file. What it does not take from it is added here: how positions are scaled
(`rope`), and whether every tensor of the file has a place in the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cutaway.base import files, hardware
from cutaway.base.display import notice
from cutaway.base.errors import UserError, nearest
from cutaway.base.files import human_bytes
from cutaway.base.progress import progress
from cutaway.nets.gguf_header import Header
from cutaway.nets.gguf_rope import set_rope

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_PER_TOKEN = 150  # bytes of a tokenizer's file for each token
_DENSE = ("F32", "F16", "BF16", "F64")
_NO_WEIGHTS = ("rope_freqs.weight",)  # constants, which the configuration tells
_BLOCK_NUMBER = re.compile(r"^blk\.(\d+)\.")


def require_known(header: Header) -> None:
    """UserError for an architecture or a storage type that the libraries do not read."""
    import transformers

    known = _architectures()
    plain = {_plain(name) for name in known}
    if _plain(header.architecture) not in plain:
        raise UserError(
            f"{header.path}: transformers {transformers.__version__} reads no GGUF file of the "
            f"architecture {header.architecture!r}{nearest(header.architecture, known)}; accepted "
            f"are {', '.join(known)}"
        )
    _require_kinds(header)
    size = 4 * header.elements
    hardware.require_memory([hardware.Need(size, "its weights", {"model": header.path})])


def disk_needed(header: Header) -> int:
    """Bytes that a conversion takes at most: four for each value, and the tokenizer."""
    tokens = header.metadata.get("tokenizer.ggml.tokens", 0)
    return 4 * header.elements + _PER_TOKEN * tokens + (1 << 20)


def convert(header: Header, folder: Path) -> dict[str, Any]:
    """Write the model into an empty folder; returns what the manifest tells of it.

    Raises UserError with one line for what the libraries cannot read.
    """
    import gguf
    import transformers

    from cutaway.nets import huggingface

    # Read through a link whose name nothing else has: the library first looks for the name in the
    # working directory, and takes an adapter's configuration that lies beside the file.
    link = folder / f"cutaway-{folder.name.strip('.')}.gguf"
    link.symlink_to(header.path)
    with huggingface._quiet(), _told(header) as done:
        config = _config(header, link)
        module = _read(header, link, config, done)
        dtype = _save(header, module, folder)
        tokens = "tokenizer.ggml.tokens" in header.metadata
        if tokens:
            _save_tokenizer(header, link, folder)
    link.unlink()
    size = sum(path.stat().st_size for path in folder.iterdir())
    kind = quantisation(header)
    notice(
        f"{header.path}: converted once to {dtype}; {human_bytes(size)} in the cache "
        f"{folder.parent}"
    )
    return {
        "architecture": header.architecture,
        "quantisation": kind,
        "stored": header.kinds,
        "dtype": dtype,
        "versions": {"transformers": transformers.__version__, "gguf": _version(gguf)},
    }


def quantisation(header: Header) -> str | None:
    """`4 bits (Q4_K_M)`: the file's own name for its mixture, where its tensors bear that out.

    Else the types that hold its values, the most frequent first: `4 to 8 bits (Q4_0, Q8_0)`. None
    for a file of 16 and 32 bits.
    """
    kinds = [kind for kind in header.kinds if kind not in _DENSE]
    if not kinds:
        return None
    label = _file_type(header)
    bits = None if label is None else _bits(label)
    near = [kind for kind in kinds if _bits(kind) in (bits, None if bits is None else bits + 1)]
    if label is not None and bits is not None and near:
        return f"{bits} bits ({label})"
    all_bits = sorted({found for found in map(_bits, kinds) if found is not None})
    span = " to ".join(map(str, dict.fromkeys([*all_bits[:1], *all_bits[-1:]])))
    return f"{span} bits ({', '.join(kinds)})" if span else ", ".join(kinds)


# -- what the file says --------------------------------------------------------------------


def _file_type(header: Header) -> str | None:
    from gguf import LlamaFileType

    try:
        name = LlamaFileType(header.metadata.get("general.file_type")).name
    except ValueError:
        return None
    return name.removeprefix("MOSTLY_") if name.startswith("MOSTLY_") else None


def _bits(kind: str) -> int | None:
    found = re.search(r"\d+", kind)
    return int(found[0]) if found else None


def _architectures() -> list[str]:
    """The names under which GGUF files of models with one stack of blocks are read."""
    from transformers import modeling_gguf_pytorch_utils as legacy

    names = set(legacy.GGUF_SUPPORTED_ARCHITECTURES)
    try:
        from transformers.integrations.gguf import GGUF_CONFIG_ARCHS

        names |= set(GGUF_CONFIG_ARCHS)
    except ImportError:
        pass
    return sorted(names - {"general", "tokenizer", "t5", "umt5", "t5encoder"})


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _require_kinds(header: Header) -> None:
    """Try one block of each storage type before everything is dequantised."""
    import numpy as np
    from gguf import GGMLQuantizationType, dequantize
    from gguf.constants import GGML_QUANT_SIZES

    for tensor in header.tensors:
        kind = GGMLQuantizationType[tensor.kind]
        try:
            block = np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8)
            dequantize(block if tensor.kind not in ("F32", "F16") else block.view(np.uint8), kind)
        except (NotImplementedError, KeyError, ValueError):
            raise UserError(
                f"{header.path}: tensor {tensor.name!r} is stored as {tensor.kind}, which the "
                "installed gguf package cannot dequantise"
            ) from None


# -- conversion ----------------------------------------------------------------------------


@contextmanager
def _told(header: Header) -> Iterator[Callable[[Iterable[Any]], Iterator[Any]]]:
    """Progress over the bytes of the tensors; failures of the libraries as one line."""
    total = sum(tensor.bytes for tensor in header.tensors)
    with progress(f"converting {header.path.name}", total, "bytes") as bar:

        def counted(tensors: Iterable[Any], **_: Any) -> Iterator[Any]:
            for tensor in tensors:
                yield tensor
                bar.advance(int(getattr(tensor, "n_bytes", 0)))

        try:
            yield counted
        except (UserError, OSError, MemoryError):
            raise
        except Exception as error:  # the libraries raise errors of every kind
            said = next((line for line in str(error).splitlines() if line.strip()), "")
            raise UserError(
                f"{header.path}: transformers cannot read it: {said or type(error).__name__}"
            ) from None


def _config(header: Header, link: Path) -> PretrainedConfig:
    import transformers

    config = transformers.AutoConfig.from_pretrained(
        link.parent, gguf_file=link.name, local_files_only=True, trust_remote_code=False
    )
    set_rope(config, header)
    if (header.architecture, config.num_hidden_layers) in (("gemma2", 46), ("gemma3", 62)):
        # of the 27B models; the others scale by the head's width, as the configuration does
        config.query_pre_attn_scalar = config.hidden_size // config.num_attention_heads
    return config


def _read(
    header: Header, link: Path, config: PretrainedConfig, done: Callable[..., Any]
) -> PreTrainedModel:
    """The model in float32; UserError where the file lacks weights or has too many."""
    import transformers
    from transformers import modeling_gguf_pytorch_utils as legacy
    from transformers.utils.quantization_config import GgufConfig

    from cutaway.nets.huggingface import _class_for

    auto = _class_for(config)
    with torch.device("meta"):
        _require_all_placed(header, auto.from_config(config))
    bar, legacy.tqdm = legacy.tqdm, done
    try:
        module, loaded = auto.from_pretrained(
            link.parent,
            gguf_file=link.name,
            config=config,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    finally:
        legacy.tqdm = bar
    for key, what in (("missing_keys", "lacks"), ("mismatched_keys", "has of another shape")):
        if names := sorted(map(str, loaded[key])):
            raise UserError(
                f"{header.path}: the file {what} {len(names)} weights of a "
                f"{type(module).__name__} ({names[0]}, ...); transformers "
                f"{transformers.__version__}"
            )
    return module


def _require_all_placed(header: Header, module: PreTrainedModel) -> None:
    """UserError where the file has more values than the model: some would be left out in silence."""
    blocks = module.config.get_text_config().num_hidden_layers
    tied = bool(getattr(module.config.get_text_config(), "tie_word_embeddings", False))

    several = header.setting(
        "nextn_predict_layers"
    )  # further blocks, for predicting several tokens

    def counts(name: str) -> bool:
        number = _BLOCK_NUMBER.match(name) if several else None
        beyond = number is not None and int(number[1]) >= blocks
        return not (beyond or name.endswith(_NO_WEIGHTS) or (tied and name == "output.weight"))

    given = sum(tensor.elements for tensor in header.tensors if counts(tensor.name))
    taken = sum(part.numel() for part in {id(part): part for part in module.parameters()}.values())
    if given > taken:
        raise UserError(
            f"{header.path}: holds {given:,} values, and transformers' {type(module).__name__} "
            f"takes {taken:,} of them; the others would be left out, so it is not read"
        )


def _save(header: Header, module: PreTrainedModel, folder: Path) -> str:
    """Write weights and configuration in the shortest type that keeps every value; its name."""
    state = module.state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{header.path}: damaged, {name} holds values that are not finite")
    dtype = _shortest(header, state)
    config = module.config
    for part in (config, config.get_text_config()):
        part.dtype = dtype
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    with torch.device("meta"):
        plain = type(module)(config)
    plain.load_state_dict({name: part.to(dtype) for name, part in state.items()}, assign=True)
    plain.tie_weights()
    plain.config._name_or_path = header.path.stem
    plain.save_pretrained(folder, max_shard_size="1000GB")
    return str(dtype).removeprefix("torch.")


def _shortest(header: Header, state: dict[str, torch.Tensor]) -> torch.dtype:
    """16 bits where the file has them and no value changes by it; dequantised ones need float32."""
    kinds = set(header.kinds) - {"F32"}
    if len(kinds) != 1 or not kinds <= {"F16", "BF16"}:
        return torch.float32
    short = torch.float16 if kinds == {"F16"} else torch.bfloat16
    same = all(torch.equal(part.to(short).to(part.dtype), part) for part in state.values())
    return short if same else torch.float32


def _save_tokenizer(header: Header, link: Path, folder: Path) -> None:
    """`tokenizer.json`, and `tokenizer_config.json` with what the file says of BOS, EOS and chat."""
    import transformers

    try:
        found = transformers.AutoTokenizer.from_pretrained(
            link.parent, gguf_file=link.name, local_files_only=True, trust_remote_code=False
        )
        found.save_pretrained(folder)
    except Exception as error:  # the library raises errors of every kind
        said = next((line for line in str(error).splitlines() if line.strip()), "")
        raise UserError(
            f"{header.path}: its tokenizer cannot be read: {said or type(error).__name__}"
        ) from None
    place = folder / "tokenizer_config.json"
    config = files.read_json(place)
    for name in ("is_local", "local_files_only"):
        config.pop(name, None)
    config["name_or_path"] = header.path.stem
    for name in ("add_bos_token", "add_eos_token"):
        said = header.metadata.get(f"tokenizer.ggml.{name}", getattr(found, name, None))
        if isinstance(said, bool):
            config[name] = said
    if isinstance(template := header.metadata.get("tokenizer.chat_template"), str):
        config["chat_template"] = template
    files.write_json(place, config)


def _version(package: Any) -> str:
    from importlib.metadata import version

    return version(package.__name__)
