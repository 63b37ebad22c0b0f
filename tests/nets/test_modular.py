"""The modular-arithmetic networks: the fast way equals the plain one, a stack equals its members."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cutaway.nets.modular import MLPConfig, ModularMLP, RoutedConfig, RoutedMLP
from cutaway.nets.modular_transformer import ModularTransformer, ModularTransformerConfig
from cutaway.nets.stacked import stack

P, WIDTH = 7, 16
PAIRS = torch.cartesian_prod(torch.arange(P), torch.arange(P))[torch.randperm(P * P)[:30]]


def transformer(layers: int, tied: bool = False, seed: int = 0) -> ModularTransformer:
    config = ModularTransformerConfig(P, WIDTH, layers, 4, tied)
    return shaken(ModularTransformer(config, seed), seed)


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """In float64, with weights far from the initial ones, norms and biases included."""
    model = model.double()
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=drawn, dtype=torch.float64))
    return model


NETWORKS = {
    "mlp": lambda seed: shaken(ModularMLP(MLPConfig(P, WIDTH, 3), seed), seed),
    "mlp of one layer": lambda seed: shaken(ModularMLP(MLPConfig(P, WIDTH, 1, "relu"), seed), seed),
    "routed": lambda seed: shaken(RoutedMLP(RoutedConfig(P, WIDTH, 2, n_heads=3), seed), seed),
    "transformer of 1": lambda seed: transformer(1, seed=seed),
    "transformer of 2, tied": lambda seed: transformer(2, True, seed=seed),
    "transformer of 3": lambda seed: transformer(3, seed=seed),
}


@pytest.fixture(params=NETWORKS)
def make(request: pytest.FixtureRequest):
    return NETWORKS[request.param]


def gradients(model: nn.Module, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    weights = torch.linspace(-1, 1, logits[0].numel(), dtype=torch.float64).view_as(logits[0])
    names, parameters = zip(*model.named_parameters())
    found = torch.autograd.grad((logits.sin() * weights).sum(), parameters, allow_unused=True)
    return dict(zip(names, found))


def test_the_fast_way_equals_the_plain_one_in_value_and_gradient(make) -> None:
    model = make(0)
    fast, plain = model(PAIRS), model.forward_from_embeddings(model.get_embeddings(PAIRS))
    assert torch.allclose(fast, plain, rtol=0, atol=1e-12)
    expected = gradients(model, plain)
    for name, gradient in gradients(model, fast).items():
        assert torch.allclose(gradient, expected[name], rtol=0, atol=1e-10), name


def test_a_stack_gives_each_member_its_own_logits_and_gradients(make) -> None:
    models = [make(seed) for seed in range(3)]
    pairs = torch.stack([PAIRS, PAIRS.flip(0), PAIRS.roll(3, 0)])
    together = stack(models)
    logits = together(pairs)
    found = gradients(together, logits)
    embedded = together.forward_from_embeddings(together.get_embeddings(pairs))
    for member, model in enumerate(models):
        alone = model(pairs[member])
        assert torch.allclose(logits[member], alone, rtol=0, atol=1e-12)
        assert torch.allclose(embedded[member], alone, rtol=0, atol=1e-12)
        weights = torch.linspace(-1, 1, logits[0].numel(), dtype=torch.float64).view_as(alone)
        names, parameters = zip(*model.named_parameters())
        expected = torch.autograd.grad((alone.sin() * weights).sum(), parameters)
        for name, gradient in zip(names, expected):
            assert torch.allclose(found[name][member], gradient, rtol=0, atol=1e-10), name


def test_the_representation_is_what_the_unembedding_reads(make) -> None:
    model = make(1)
    state = model.get_representation(PAIRS)
    if model.unembed is not None:
        assert torch.allclose(model.unembed(state), model(PAIRS), rtol=0, atol=1e-12)
    else:
        assert torch.allclose(state @ model.token_embedding[:P].T, model(PAIRS), rtol=0, atol=1e-12)


def test_the_transformer_equals_pytorchs_own_layers() -> None:
    """Against nn.TransformerEncoderLayer, pre-norm, with a causal mask."""
    model = transformer(2)
    layers = []
    for block in model.blocks:
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
        ).double()
        layer.load_state_dict(
            {
                "self_attn.in_proj_weight": block.attention.query_key_value.weight,
                "self_attn.in_proj_bias": block.attention.query_key_value.bias,
                "self_attn.out_proj.weight": block.attention.out.weight,
                "self_attn.out_proj.bias": block.attention.out.bias,
                "linear1.weight": block.up.weight,
                "linear1.bias": block.up.bias,
                "linear2.weight": block.down.weight,
                "linear2.bias": block.down.bias,
                "norm1.weight": block.norm1.weight,
                "norm1.bias": block.norm1.bias,
                "norm2.weight": block.norm2.weight,
                "norm2.bias": block.norm2.bias,
            }
        )
        layers.append(layer)
    tokens = torch.stack(
        [PAIRS[:, 0], torch.full((30,), P), PAIRS[:, 1], torch.full((30,), P + 1)], 1
    )
    assert torch.equal(model.tokens(PAIRS), tokens)
    x = model.token_embedding[tokens] + model.position_embedding
    mask = nn.Transformer.generate_square_subsequent_mask(4, dtype=torch.float64)
    for layer in layers:
        x = layer(x, src_mask=mask, is_causal=True)
    expected = model.unembed(model.norm(x[:, -1]))
    assert torch.allclose(model(PAIRS), expected, rtol=0, atol=1e-12)


def test_the_gates_weights_are_shares_and_blend_the_heads() -> None:
    model = NETWORKS["routed"](0)
    logits, weights = model.forward_with_routing(PAIRS)
    assert weights.shape == (30, 2, 3)
    assert torch.allclose(weights.sum(-1), torch.ones(30, 2, dtype=torch.float64))
    assert torch.equal(logits, model(PAIRS))
    with torch.no_grad():  # heads that are all alike leave nothing to route
        for layer in model.layers:
            heads = layer.heads.weight.view(3, WIDTH, WIDTH)
            heads.copy_(heads[0].clone().expand(3, -1, -1))
            bias = layer.heads.bias.view(3, WIDTH)
            bias.copy_(bias[0].clone().expand(3, -1))
        first = model(PAIRS)
        for layer in model.layers:
            layer.gate.to_heads.bias.copy_(torch.randn(3))
    assert torch.allclose(model(PAIRS), first, rtol=0, atol=1e-12)


def test_weight_decay_spares_what_it_should() -> None:
    def decayed(model: nn.Module) -> set[str]:
        return {name for name, p in model.named_parameters() if model.decays(name, p)}

    assert decayed(NETWORKS["mlp"](0)) == {
        *("embedding", "layers.0.weight", "layers.1.weight", "unembed.weight"),
    }
    assert not any("gate" in name or "bias" in name for name in decayed(NETWORKS["routed"](0)))
    spared = {"token_embedding", "position_embedding", "norm.weight", "blocks.0.norm1.weight"}
    assert not spared & decayed(transformer(2))
    assert "blocks.1.attention.query_key_value.weight" in decayed(transformer(2))
