"""Where `transformers`' models have their parts: blocks, attention, MLP, projections, head.

Parts are found by the names that layouts use, and checked with one forward pass of three tokens
(`nets.layout_check`): a site whose states are not what its name promises is not offered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from cutaway.base.errors import UserError
from cutaway.nets.anatomy import Place

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# Where the thing that is added to the residual stream comes out, by path inside a block; the first
# path that exists counts. Norms after attention or MLP (Gemma 2, 3, OLMo 2, GLM 4) come before
# these, and modules that add the stream themselves (BERT, BLOOM, MPT) are opened.
_ATTENTION = ("post_self_attn_layernorm", "attention.output.dense", "self_attention.dense",
              "self_attn", "attn", "attention.attn", "attention", "self_attention",
              "norm_attn_norm.attn")  # fmt: skip
_MLP = ("post_mlp_layernorm", "post_feedforward_layernorm", "mlp.dense_4h_to_h", "ffn.down_proj",
        "mlp", "ffn", "feed_forward", "block_sparse_moe", "output.dense", "fc2")  # fmt: skip
_AFTER_MLP = ("post_mlp_layernorm", "post_feedforward_layernorm")
# The last linear map of attention and of the MLP, by path inside either.
_ATTENTION_OUT = ("o_proj", "out_proj", "c_proj", "dense", "out_lin", "Wo", "o",
                  "attention.out_proj")  # fmt: skip
_MLP_OUT = ("down_proj", "c_proj", "fc_out", "fc2", "dense_4h_to_h", "lin2", "Wo")
_ROUTED = ("experts", "gate", "router", "local_experts")  # an MLP that has one is many
# A norm between the embeddings and the first block: what it makes of their sum is `embed`.
_EMBEDDING_NORM = ("word_embeddings_layernorm", "embeddings.LayerNorm", "embeddings.norm",
                   "embed_layer_norm")  # fmt: skip


@dataclass(frozen=True)
class Head:
    """logits = cap · tanh(scale · (W x + bias) / cap), without the tanh where there is no cap."""

    weight: Tensor | None = None
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None


@dataclass(frozen=True)
class Layout:
    """The places of the sites, by block: None where it has no such; see `nets.anatomy.Anatomy`."""

    blocks: Sequence[nn.Module]
    attention: Sequence[Place | None]
    mlp: Sequence[Place | None]
    middle: Sequence[Place | None]
    heads: Sequence[Place | None]
    neurons: Sequence[Place | None]
    words: Place | None
    head: Head
    reasons: Mapping[str, str] = field(default_factory=dict)


def by_name(module: PreTrainedModel, config: PretrainedConfig, *, masked: bool) -> Layout:
    """The parts that names tell, not checked. UserError for a layout without a list of blocks.

    `masked`: a model of masked words, whose head is more than a linear map.
    """
    blocks = blocks_of(module, config)
    normed = _first(module.base_model, _EMBEDDING_NORM) is not None
    return Layout(
        blocks=blocks,
        attention=[_output(_attention(block)) for block in blocks],
        mlp=[_output(_first(block, _MLP)) for block in blocks],
        middle=[None] * len(blocks),  # found by what passes by
        heads=[_projection(_inner_attention(block), _ATTENTION_OUT) for block in blocks],
        neurons=[_neurons(block) for block in blocks],
        words=None if normed else Place(module.get_input_embeddings()),
        head=Head() if masked else _head(module, config),
    )


def blocks_of(module: PreTrainedModel, config: PretrainedConfig) -> nn.ModuleList:
    """The shallowest list of modules with one for each layer, else the longest list."""
    body = module.base_model
    body = getattr(body, "language_model", body)  # beside an image tower
    lists = [
        (name.count("."), part)
        for name, part in body.named_modules()
        if isinstance(part, nn.ModuleList) and len(part)
    ]
    # of a decoder taken from a pair, whose num_hidden_layers is the encoder's
    layers = getattr(config, "decoder_layers", None) or getattr(config, "num_hidden_layers", None)
    fitting = [found for found in lists if len(found[1]) == layers]
    if fitting:
        return min(fitting, key=lambda found: found[0])[1]
    longest = max((part for _, part in lists), key=len, default=None)
    if longest is None or (layers is not None and len(longest) < layers):
        raise UserError(
            f"{type(module).__name__}: its {layers} layers are not {layers} modules in a list "
            "(shared or unusual blocks), so it has no sites to look at"
        )
    return longest


def _head(module: PreTrainedModel, config: PretrainedConfig) -> Head:
    layer = module.get_output_embeddings()
    weight = getattr(layer, "weight", None)
    if layer is None or not isinstance(weight, Tensor) or weight.ndim != 2:
        return Head()
    scale = float(getattr(config, "logit_scale", None) or 1.0)  # Cohere multiplies
    scale /= float(getattr(config, "logits_scaling", None) or 1.0)  # Granite divides
    scale *= float(getattr(config, "lm_head_multiplier", None) or 1.0)  # Falcon-H1
    cap = getattr(config, "final_logit_softcapping", None)
    return Head(weight, getattr(layer, "bias", None), scale, None if cap is None else float(cap))


def _attention(block: nn.Module) -> nn.Module | None:
    after_mlp = any(hasattr(block, name) for name in _AFTER_MLP)
    if after_mlp and hasattr(block, "post_attention_layernorm"):
        # Only where the MLP has a norm after it too: in Llama this is the name of the one before
        # the MLP. GLM 4 has that one as well, and its own name for the norm after attention.
        return _first(block, ("post_self_attn_layernorm", "post_attention_layernorm"))
    return _first(block, _ATTENTION)


def _inner_attention(block: nn.Module) -> nn.Module | None:
    """The attention itself, without a norm after it."""
    inner = ("attention.output", "self_attn", "attn", "self_attention", "attention.attn", "attention",
             "norm_attn_norm.attn")  # fmt: skip
    return _first(block, inner)


def _neurons(block: nn.Module) -> Place | None:
    mlp = _first(block, ("mlp", "ffn", "feed_forward"))
    if mlp is None:
        for outer in (_first(block, ("output",)), block):
            if found := _projection(outer, ("dense",) if outer is not block else ("fc2",)):
                return found
        return None
    if any(hasattr(mlp, name) for name in _ROUTED):
        return None
    return _projection(mlp, _MLP_OUT)


def _projection(part: nn.Module | None, paths: tuple[str, ...]) -> Place | None:
    """What goes into a linear map, with its width."""
    linear = None if part is None else _first(part, paths)
    width = getattr(linear, "in_features", None)
    if width is None and hasattr(linear, "nf"):  # GPT-2's Conv1D, (in, out)
        width = linear.weight.shape[0]  # type: ignore[union-attr]
    return None if linear is None or width is None else Place(linear, "input", int(width))


def _output(part: nn.Module | None) -> Place | None:
    return None if part is None else Place(part)


def _first(block: nn.Module, paths: tuple[str, ...]) -> nn.Module | None:
    for path in paths:
        part: Any = block
        for name in path.split("."):
            part = getattr(part, name, None)
        if isinstance(part, nn.Module):
            return part
    return None
