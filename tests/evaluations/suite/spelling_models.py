"""Models whose states are known by hand: each word's state is a row of a table, whatever is before it."""

from __future__ import annotations

import string

import tokenizers
import torch
from torch import Tensor, nn

from cutaway.nets.anatomy import Anatomy
from cutaway.nets.model import Model, ModelReference
from cutaway.text.tokenizers import Tokenizer

END = "<|endoftext|>"


def word_tokenizer(words: list[str]) -> Tokenizer:
    """One token for each word after a space, as byte-level BPE writes it; id 0 ends a text."""
    pieces = [END, "<unk>", "Ċ", *(f"Ġ{word}" for word in words)]
    answers = [f"Ġ{letter}" for letter in string.ascii_uppercase if f"Ġ{letter}" not in pieces]
    vocabulary = {piece: id for id, piece in enumerate([*pieces, *answers])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    return Tokenizer(backend, 0, "words")


def made_up_words(per_letter: int, seed: int = 0) -> list[str]:
    """Words of five letters, as many for each first letter, all different."""
    generator = torch.Generator().manual_seed(seed)
    words: list[str] = []
    for first in string.ascii_lowercase:
        mine: dict[str, None] = {}
        while len(mine) < per_letter:
            rest = torch.randint(26, (4,), generator=generator).tolist()
            mine[first + "".join(string.ascii_lowercase[place] for place in rest)] = None
        words += mine
    return words


class _Table(nn.Module):
    def __init__(self, states: Tensor):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(states)
        self.block = nn.Identity()


def table_model(states: Tensor, tokenizer: Tokenizer) -> Model:
    """A causal model of one block after which a token's state is its row of `states` (V, d)."""
    module = _Table(states)

    def forward(tokens: Tensor, mask: Tensor | None, at: Tensor | None) -> Tensor:
        return module.block(module.embedding(tokens))

    anatomy = Anatomy(
        [module.block], [None], [None], forward, states.shape[1], len(states), None, True, None, 0
    )
    reference = ModelReference(
        "run", "table", None, 0, "weights", tokenizer.sha256(), 1, states.shape[1]
    )
    return Model(module, anatomy, reference, tokenizer)
