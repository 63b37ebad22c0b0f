"""Words and senses: three different questions, each with its name (Hewitt et al. 2023).

`used`       which words' senses the model attends to, against chance, over held-out text
`predicts`   which tokens a word's sense raises: the largest E·C(x)ₗ
`evoked-by`  which (word, sense) pairs raise a given word the most
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cutaway.base.display import notice
from cutaway.base.doors import door
from cutaway.base.errors import UserError, require_whole
from cutaway.nets.backpack import Backpack
from cutaway.nets.tokens import require_ids, token_ids
from cutaway.stats.ties import largest
from cutaway.training.instruments import Moment, Stateless

if TYPE_CHECKING:
    import pyarrow as pa

    from cutaway.language.task import LanguageTask
    from cutaway.text.tokenizers import Tokenizer

SEEN_AT_LEAST = 5  # a word seen less often has no reading worth ranking
KEPT_WORDS = 500  # most words a reading keeps, so that a word's curve over training has few gaps
_CHUNK_WORDS = 2048


@dataclass(frozen=True)
class Used:
    """How much each word's senses are attended to, over some text.

    activation (vocabulary, k): Σ over the word's places j and positions i ≥ j of αₗᵢⱼ, divided by
    the same sum for uniform causal attention, 1 / (i + 1): 1 is chance. NaN where never seen.
    count (vocabulary,): how often the word was seen.
    """

    activation: Tensor
    count: Tensor

    def top(self, number: int, without: Sequence[int] = ()) -> list[dict[str, Any]]:
        """The words with the largest activation in any sense, seen at least five times."""
        value, sense = self.activation.nan_to_num(-1.0).max(-1)
        value = value.clone()
        value[self.count < SEEN_AT_LEAST] = -1.0
        value[list(without)] = -1.0
        order = torch.argsort(value, descending=True, stable=True)[:number]
        order = order[value[order] >= 0]
        return [
            {"token_id": token, "sense": s, "activation": a, "count": c}
            for token, s, a, c in zip(
                order.tolist(),
                sense[order].tolist(),
                value[order].tolist(),
                self.count[order].tolist(),
                strict=True,
            )
        ]


@torch.no_grad()
@door
def used(model: Backpack, windows: Tensor, batch_size: int = 16) -> Used:
    """Activation of every word and sense over windows (n, T) of tokens. See `Used`."""
    windows = token_ids(windows)
    require_ids("windows", windows, 2, model.config.vocab_size, model.config.block_size)
    require_whole("batch_size", batch_size, 1)
    vocabulary, k = model.config.vocab_size, model.config.n_senses
    device = model.embedding.device
    length = windows.shape[1]
    # uniform attention gives position j the mass Σ_{i ≥ j} 1 / (i + 1)
    chance = (1 / torch.arange(1, length + 1, dtype=torch.float64)).flip(0).cumsum(0).flip(0)
    chance = chance.to(device, torch.float32)
    mass = torch.zeros(vocabulary, k, device=device)
    expected = torch.zeros(vocabulary, device=device)
    count = torch.zeros(vocabulary, dtype=torch.int64, device=device)
    training = model.training
    model.eval()
    for some in windows.to(device).split(batch_size):
        received = model.alpha(some).sum(2)
        mass.index_add_(0, some.flatten(), received.transpose(1, 2).reshape(-1, k).float())
        expected.index_add_(0, some.flatten(), chance.repeat(len(some)))
        count.index_add_(0, some.flatten(), torch.ones_like(some).flatten())
    model.train(training)
    return Used((mass / expected[:, None]).cpu(), count.cpu())


def _require_within(model: Backpack, token: int, top: int) -> None:
    require_whole("token", token, 0, model.config.vocab_size - 1)
    require_whole("top", top, 1)


@torch.no_grad()
@door
def predicts(model: Backpack, token: int, top: int = 20) -> list[dict[str, Any]]:
    """For each sense of a word, the tokens it raises most: rows of sense, token_id, logit."""
    _require_within(model, token, top)
    senses = model.sense_vectors(torch.tensor([token], device=model.embedding.device))[0]
    logits, ids = largest(senses @ model.embedding.t(), min(top, model.config.vocab_size))
    return [
        {"sense": sense, "token_id": one, "logit": logit}
        for sense, (row, values) in enumerate(zip(ids.tolist(), logits.tolist(), strict=True))
        for one, logit in zip(row, values, strict=True)
    ]


@torch.no_grad()
@door
def evoked_by(model: Backpack, target: int, top: int = 20) -> list[dict[str, Any]]:
    """The (word, sense) pairs whose sense vector raises `target` most: E_target·C(x)ₗ."""
    _require_within(model, target, top)
    direction = model.embedding[target]
    vocabulary, k = model.config.vocab_size, model.config.n_senses
    everything = torch.arange(vocabulary, device=direction.device)
    raises = torch.cat(
        [model.sense_vectors(some) @ direction for some in everything.split(_CHUNK_WORDS)]
    ).flatten()
    logits, places = largest(raises, min(top, vocabulary * k))
    return [
        {"token_id": place // k, "sense": place % k, "logit": logit}
        for place, logit in zip(places.tolist(), logits.tolist(), strict=True)
    ]


def tokens_of(tokenizer: Tokenizer, word: str) -> list[int]:
    """The tokens that a word may mean, each one token: as it is written, then with a space before it
    as running text has it, then without one. UserError where it is none.
    """
    plain = word.replace("␣", " ")  # as tables show it
    bare = plain.lstrip(" ")
    found: list[int] = []
    for text in dict.fromkeys((word, plain, f" {bare}", bare)):
        ids = list(tokenizer.encode(text)) if text.strip(" ") or text == word else []
        if len(ids) == 1 and ids[0] not in found:
            found.append(ids[0])
    if not found:
        pieces = " + ".join(repr(tokenizer.token(one)) for one in tokenizer.encode(word))
        raise UserError(
            f"word = {word!r}: not one token of this run's tokenizer but {pieces or 'none'}"
        )
    # a tokenizer may put the space itself: then what is written is not what it encodes
    return sorted(found, key=lambda id: tokenizer.token(id) != word)


def token_of(tokenizer: Tokenizer, word: str, among: Sequence[int] | None = None) -> int:
    """The one token a word is: exactly as written where there is such a token (`tokens_of`).

    `among`: tokens it has to be one of, where it can be. A notice says which token was taken where
    that is not the word as written, or where it could be another one.
    """
    found = tokens_of(tokenizer, word)
    fitting = [id for id in found if among is None or id in among] or found
    taken = fitting[0]
    others = [repr(tokenizer.token(id)) for id in found if id != taken]
    if others or tokenizer.token(taken) != word:
        also = f"; there is also {' and '.join(others)}" if others else ""
        notice(f"word = {word!r}: taken as the token {tokenizer.token(taken)!r}{also}")
    return taken


class TopWords(Stateless):
    """The most used words over fixed held-out windows: the run's table `words`.

    Columns: step, rank, token_id, word, sense, activation (1 = chance), count.
    """

    name = "words"

    def __init__(self, every: int, windows: Tensor, tokenizer: Tokenizer):
        self.every, self.windows, self.tokenizer = every, windows, tokenizer

    def read(self, at: Moment) -> pa.Table:
        task: LanguageTask = at.task  # type: ignore[assignment]
        rows = used(task.model, self.windows).top(KEPT_WORDS, [self.tokenizer.end_of_text])
        return self.table(at.step, rows)

    def table(self, step: int, rows: Sequence[dict[str, Any]]) -> pa.Table:
        """Rows of `Used.top` as the table's, with the step and the words' text."""
        import pyarrow as pa

        return pa.table(
            {
                "step": pa.array([step] * len(rows), pa.int64()),
                "rank": pa.array(range(1, len(rows) + 1), pa.int64()),
                "token_id": pa.array([row["token_id"] for row in rows], pa.int64()),
                "word": pa.array(
                    [self.tokenizer.token(row["token_id"]) for row in rows], pa.string()
                ),
                "sense": pa.array([row["sense"] for row in rows], pa.int64()),
                "activation": pa.array([row["activation"] for row in rows], pa.float64()),
                "count": pa.array([row["count"] for row in rows], pa.int64()),
            }
        )
