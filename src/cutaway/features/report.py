"""From what was counted of features to their table: rates, lifted tokens, promoted tokens, examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cutaway.features.table import PRIOR, Features
from cutaway.stats.ties import largest

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from cutaway.features.collecting import Reader
    from cutaway.text.tokenizers import Tokenizer


class Report:
    """What a reader holds as `Features`: lifts, promoted tokens and names worked out, once."""

    def __init__(
        self,
        reader: Reader,
        tokenizer: Tokenizer | None,
        top_tokens: int,
        minimum: int,
        facts: dict[str, Any],
    ):
        self.reader, self.names, self.facts = reader, _Names(tokenizer), facts
        self.top_tokens, self.minimum = top_tokens, minimum

    def features(self, decoder_weight: Tensor | None) -> Features:
        """`decoder_weight` (V, d) maps states to logits (`Model.decoder_at`); None where there is none."""
        import pyarrow as pa

        reader = self.reader
        fires = reader.fires.cpu().numpy()
        mean = reader.sums.numpy() / np.maximum(fires, 1)
        histogram = reader.histogram.cpu().numpy()
        table = pa.table(
            {
                "feature": np.arange(len(fires)),
                "fires": fires,
                "density": fires / reader.tokens,
                "max": reader.examples.values[:, 0].cpu().numpy(),
                "mean": mean,
                "histogram": pa.FixedSizeListArray.from_arrays(pa.array(histogram), reader.bins),
                "tokens": self._lifted(fires),
                "promoted": self._promoted(decoder_weight),
            }
        )
        facts = {
            **self.facts,
            "tokens": reader.tokens,
            "contexts": reader.contexts,
            "non_finite": reader.non_finite,
            "l0": float(fires.sum() / reader.tokens),
            "dead_share": float((fires == 0).mean()),
            "dead": np.flatnonzero(fires == 0).tolist(),
            "histogram_edges": reader.edges().tolist(),
            "firings_missed": reader.pairs.missed,
        }
        return Features(facts, table, self._examples())

    def _lifted(self, fires: np.ndarray) -> Any:
        features, tokens, counts = (one.cpu().numpy() for one in self.reader.pairs.pairs())
        enough = counts >= self.minimum
        features, tokens, counts = features[enough], tokens[enough], counts[enough]
        seen = self.reader.seen.cpu().numpy()[tokens]
        density = fires[features] / self.reader.tokens
        lift = (counts / density + PRIOR) / (seen + PRIOR)
        order = np.lexsort((tokens, -lift, features))
        rank = np.arange(len(order)) - np.searchsorted(features[order], features[order])
        kept = order[rank < self.top_tokens]
        columns = {
            "token_id": tokens[kept],
            "token": self.names(tokens[kept]),
            "lift": lift[kept],
            "share": counts[kept] / seen[kept],
            "fires": counts[kept],
            "occurrences": seen[kept],
        }
        return _lists(np.bincount(features[kept], minlength=len(fires)), columns)

    def _promoted(self, decoder_weight: Tensor | None) -> Any:
        import pyarrow as pa
        import torch

        rows = self.reader.dictionary.decoder_weight.detach()
        if decoder_weight is None:
            return pa.nulls(len(rows))
        weight = decoder_weight.to(rows.device, torch.float32)
        weight = weight - weight.mean(0)
        k = min(self.top_tokens, len(weight))
        found = [largest(part @ weight.T, k) for part in rows.split(256)]
        logits, tokens = (torch.cat(one).flatten().cpu().numpy() for one in zip(*found))
        columns = {"token_id": tokens, "token": self.names(tokens), "logit": logits}
        return _lists(np.full(len(rows), k), columns)

    def _examples(self) -> Any:
        import pyarrow as pa

        kept = self.reader.examples
        owner, rank = (one.cpu().numpy() for one in (kept.values > 0).nonzero(as_tuple=True))
        tokens = kept.tokens.cpu().numpy()[owner, rank]
        inside = tokens >= 0
        ids = tokens[inside]
        bounds = pa.array(np.r_[0, np.cumsum(inside.sum(1))], pa.int32())

        def windows(values: Any) -> Any:
            return pa.ListArray.from_arrays(bounds, pa.array(values))

        return pa.table(
            {
                "feature": owner,
                "rank": rank,
                "activation": kept.values.cpu().numpy()[owner, rank],
                "document": kept.documents.cpu().numpy()[owner, rank],
                "position": kept.positions.cpu().numpy()[owner, rank],
                "centre": inside[:, : kept.before].sum(1),
                "token_ids": windows(ids),
                "tokens": windows(self.names(ids)),
                "activations": windows(kept.activations.cpu().numpy()[owner, rank][inside]),
            }
        )


class _Names:
    """Tokens as text; `#id` without a tokenizer, and for ids it does not have."""

    def __init__(self, tokenizer: Tokenizer | None):
        self.tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def __call__(self, ids: np.ndarray) -> list[str]:
        unique, places = np.unique(ids, return_inverse=True)
        for id in unique.tolist():
            if id not in self._known:
                self._known[id] = self._name(id)
        words = np.array([self._known[id] for id in unique.tolist()], dtype=object)
        return words[places].tolist()

    def _name(self, id: int) -> str:
        if self.tokenizer is not None:
            try:
                return self.tokenizer.token(id)
            except IndexError:
                pass
        return f"#{id}"


def _lists(counts: Sequence[int] | np.ndarray, columns: dict[str, Any]) -> pa.Array:
    """Per feature a list of records: `counts[i]` of them, the columns' rows one after another."""
    import pyarrow as pa

    struct = pa.StructArray.from_arrays(
        [pa.array(column) for column in columns.values()], list(columns)
    )
    return pa.ListArray.from_arrays(pa.array(np.r_[0, np.cumsum(counts)], pa.int32()), struct)
