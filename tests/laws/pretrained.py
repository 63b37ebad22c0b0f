"""Small random models of many architectures of `transformers`, for laws about all of them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch

WIDTH, LAYERS, HEADS, VOCABULARY, CONTEXT = 32, 3, 4, 120, 40

# Settings under all the names that configurations use; each takes those that it has.
_SETTINGS: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "word_embed_proj_dim"), WIDTH),
    **dict.fromkeys(("embed_dim", "embedding_size"), WIDTH),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), HEADS),
    **dict.fromkeys(("attention_heads", "decoder_attention_heads"), HEADS),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "ffn_hidden_size", "hidden_dim"), 48),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), CONTEXT),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rotary_dim": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "sliding_window": 8,
    "query_pre_attn_scalar": 8,
    "attention_types": [[["global"], 3]],
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 0,
}

_FALCON = {"num_kv_heads": 2}
# name → class, what differs from the settings above
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "apertus": ("ApertusForCausalLM", {}),
    "arcee": ("ArceeForCausalLM", {}),
    "bart": ("BartForCausalLM", {"decoder_layers": LAYERS, "decoder_ffn_dim": 48}),
    "biogpt": ("BioGptForCausalLM", {}),
    "bloom": ("BloomForCausalLM", {}),
    "bloom-post-norm": ("BloomForCausalLM", {"apply_residual_connection_post_layernorm": True}),
    "codegen": ("CodeGenForCausalLM", {}),
    "cohere": ("CohereForCausalLM", {}),
    "cohere2": ("Cohere2ForCausalLM", {}),
    "deepseek-v3": ("DeepseekV3ForCausalLM", {"num_key_value_heads": 4}),
    "ernie": ("Ernie4_5ForCausalLM", {}),
    "exaone4": ("Exaone4ForCausalLM", {}),
    "falcon": ("FalconForCausalLM", {}),
    "falcon-alibi": ("FalconForCausalLM", {"alibi": True}),
    "falcon-new": ("FalconForCausalLM", {**_FALCON, "new_decoder_architecture": True}),
    "falcon-sequential": ("FalconForCausalLM", {"parallel_attn": False}),
    "gemma": ("GemmaForCausalLM", {}),
    "gemma2": ("Gemma2ForCausalLM", {}),
    "gemma3": ("Gemma3ForCausalLM", {}),
    "glm": ("GlmForCausalLM", {}),
    "glm4": ("Glm4ForCausalLM", {}),
    "gpt-big-code": ("GPTBigCodeForCausalLM", {}),
    "gpt-j": ("GPTJForCausalLM", {}),
    "gpt-neo": ("GPTNeoForCausalLM", {}),
    "gpt-neox": ("GPTNeoXForCausalLM", {}),
    "gpt-neox-sequential": ("GPTNeoXForCausalLM", {"use_parallel_residual": False}),
    "gpt-oss": ("GptOssForCausalLM", {}),
    "gpt2": ("GPT2LMHeadModel", {}),
    "granite": ("GraniteForCausalLM", {}),
    "granite-scaled": ("GraniteForCausalLM", {"residual_multiplier": 0.5, "logits_scaling": 4.0}),
    "helium": ("HeliumForCausalLM", {}),
    "llama": ("LlamaForCausalLM", {}),
    "mistral": ("MistralForCausalLM", {}),
    "mixtral": ("MixtralForCausalLM", {}),
    "mpt": ("MptForCausalLM", {}),
    "nemotron": ("NemotronForCausalLM", {}),
    "olmo": ("OlmoForCausalLM", {}),
    "olmo2": ("Olmo2ForCausalLM", {}),
    "olmoe": ("OlmoeForCausalLM", {}),
    "openai-gpt": ("OpenAIGPTLMHeadModel", {}),
    "opt": ("OPTForCausalLM", {}),
    "opt-post-norm": ("OPTForCausalLM", {"do_layer_norm_before": False}),
    "persimmon": ("PersimmonForCausalLM", {}),
    "phi": ("PhiForCausalLM", {}),
    "phi3": ("Phi3ForCausalLM", {}),
    "qwen2": ("Qwen2ForCausalLM", {}),
    "qwen2-moe": ("Qwen2MoeForCausalLM", {}),
    "qwen3": ("Qwen3ForCausalLM", {}),
    "qwen3-moe": ("Qwen3MoeForCausalLM", {}),
    "seed-oss": ("SeedOssForCausalLM", {}),
    "smollm3": ("SmolLM3ForCausalLM", {}),
    "stablelm": ("StableLmForCausalLM", {}),
    "stablelm-parallel": ("StableLmForCausalLM", {"use_parallel_residual": True}),
    "starcoder2": ("Starcoder2ForCausalLM", {}),
    "xglm": ("XGLMForCausalLM", {}),
    "bert": ("BertForMaskedLM", {}),
    "camembert": ("CamembertForMaskedLM", {}),
    "deberta-v2": ("DebertaV2ForMaskedLM", {}),
    "distilbert": ("DistilBertForMaskedLM", {}),
    "electra": ("ElectraForMaskedLM", {}),
    "modernbert": ("ModernBertForMaskedLM", {}),
    "mpnet": ("MPNetForMaskedLM", {}),
    "roberta": ("RobertaForMaskedLM", {}),
}


ENCODERS = [name for name, (kind, _) in ARCHITECTURES.items() if kind.endswith("ForMaskedLM")]
CAUSAL = [name for name in ARCHITECTURES if name not in ENCODERS]

# Kinds of sites that an architecture does not have, and why.
_SIDE_BY_SIDE = (  # attention and MLP read the same stream
    "codegen", "cohere", "cohere2", "falcon", "falcon-alibi", "falcon-new", "gpt-j", "gpt-neox", "phi",
    "stablelm-parallel",
)  # fmt: skip
_NORMALISED = (  # each sum is normalised
    "bart",
    "openai-gpt",
    "opt-post-norm",
    *(name for name in ENCODERS if name != "modernbert"),
)
_EXPERTS = ("gpt-oss", "mixtral", "olmoe", "qwen2-moe", "qwen3-moe")  # several sets of neurons
WITHOUT: dict[str, set[str]] = {
    **{name: {"middle"} for name in (*_SIDE_BY_SIDE, *_NORMALISED)},
    **{name: {"neurons"} for name in _EXPERTS},
    "granite-scaled": {"attention", "middle", "mlp"},
    "bloom-post-norm": {"attention", "middle"},  # adds to the norm of the stream
}
KINDS = ("heads", "attention", "middle", "neurons", "mlp", "residual")


def build(name: str, **settings: Any) -> Any:
    """A random model of an architecture, with weights large enough to matter."""
    import transformers

    kind, own = ARCHITECTURES[name]
    network = getattr(transformers, kind)
    wanted = {**_SETTINGS, **own, **settings}
    config = network.config_class
    names = getattr(config, "attribute_map", {})
    known = {*getattr(config, "__dataclass_fields__", ()), *inspect.signature(config).parameters}
    given = {key: value for key, value in wanted.items() if key in known or key in settings}
    given = {key: value for key, value in given.items() if names.get(key) not in given}
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = network(config(**given))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module


def save(name: str, folder: Path, **settings: Any) -> Path:
    """The same in a folder, as Hugging Face saves it."""
    build(name, **settings).save_pretrained(folder)
    return folder
