"""What was read of a dictionary's features: one row each, their examples, and files of both.

features.json       what was read and how, which features are dead
features.parquet    one row per feature
examples.parquet    one row per example, strongest first
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cutaway.base import files
from cutaway.base.errors import UserError
from cutaway.base.files import as_path
from cutaway.stats.ties import largest

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from cutaway.dictionaries.features import Reader
    from cutaway.text.tokenizers import Tokenizer

FORMAT = 1
PRIOR = 10.0  # occurrences at the overall rate that smooth a token's own
SUMMARY, TABLE, EXAMPLES = "features.json", "features.parquet", "examples.parquet"


@dataclass(frozen=True)
class Features:
    """`facts`: plain data on the whole (tokens read, site, edges of the histogram's bins, `dead`).

    `table` has a row per feature, in order: `feature`, `fires` (tokens it is active on), `density`
    (their share), `max`, `mean` (over those tokens), `histogram` (their number per bin), `tokens`
    (those it fires on, by lift: `token_id`, `token`, `lift`, `share` = P(fires | token), `fires`,
    `occurrences`), `promoted` (`token_id`, `token`, `logit`; null without a decoder weight).
    `examples` has `feature`, `rank`, `activation`, `document`, `position`, `centre` (the token's
    place in its window) and the window: `token_ids`, `tokens`, `activations`.
    """

    facts: dict[str, Any]
    table: pa.Table
    examples: pa.Table

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def dead(self) -> list[int]:
        """Features that fired on none of the tokens read."""
        return self.facts["dead"]

    @cached_property
    def promotes(self) -> bool:
        """Whether promoted tokens are known, as of models with a decoder weight."""
        return self.table["promoted"].null_count < len(self)

    @property
    def left_out(self) -> list[str]:
        """What is told of no feature, one line each with the reason."""
        told = self.facts.get("left_out") or {}
        return [f"{what} tokens are left out: {why}" for what, why in told.items()]

    @cached_property
    def density(self) -> np.ndarray:
        """On what share of tokens each feature fires, (F,)."""
        return self.table["density"].to_numpy()

    @property
    def edges(self) -> np.ndarray:
        """Borders of the histogram's bins, in units of the activations, (bins + 1,)."""
        return np.array(self.facts["histogram_edges"])

    def row(self, index: int) -> dict[str, Any]:
        """One feature's row; UserError where there is no such feature."""
        if not 0 <= index < len(self):
            raise UserError(f"feature = {index}: the dictionary has features 0 to {len(self) - 1}")
        return self.table.slice(index, 1).to_pylist()[0]

    def examples_of(self, index: int) -> list[dict[str, Any]]:
        """A feature's examples, strongest first."""
        self.row(index)
        start, stop = self._starts[index], self._starts[index + 1]
        return self.examples.slice(start, stop - start).to_pylist()

    def summary(self, index: int, *, examples: int = 5) -> str:
        """A feature as text to print: figures, tokens, promoted tokens, examples.

        The token an example is about stands in «», others the feature is active on in [].
        """
        from cutaway.figures.text import visible

        row = self.row(index)
        if not row["fires"]:
            lines = [f"feature {index}: dead, silent on all {self.facts['tokens']:,} tokens"]
        else:
            lines = [
                f"feature {index}: fires on {row['density']:.3%} of tokens "
                f"({row['fires']:,} of {self.facts['tokens']:,}), "
                f"max {row['max']:.3g}, mean {row['mean']:.3g}"
            ]
            named = [f"{visible(one['token'])} ×{one['lift']:.3g}" for one in row["tokens"]]
            lines.append(f"  fires on   {'  '.join(named) or 'no token often enough'}")
        if row["promoted"]:
            named = [f"{visible(one['token'])} {one['logit']:+.2g}" for one in row["promoted"]]
            lines.append(f"  promotes   {'  '.join(named)}")
        lines += [f"  {line}" for line in self.left_out]
        for one in self.examples_of(index)[:examples]:
            lines.append(f"  {one['activation']:>8.3g}   {_marked(one)}")
        return "\n".join(lines)

    # -- files -----------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write the three files into a folder, each replaced in one step; returns the folder."""
        import pyarrow.parquet as pq

        folder = as_path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, table in ((TABLE, self.table), (EXAMPLES, self.examples)):
                with files.replacing(folder / name) as temporary, open(temporary, "wb") as file:
                    pq.write_table(table, file, compression="zstd")
            files.write_json(folder / SUMMARY, self.facts)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from None
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Features:
        """What `save` wrote. UserError where it is missing, damaged or of a newer format."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        folder = Path(folder)
        try:
            facts = files.read_json(folder / SUMMARY)
            if facts["format"] > FORMAT:
                raise UserError(
                    f"{folder / SUMMARY}: format {facts['format']} is newer than this cutaway "
                    f"reads ({FORMAT}); update it"
                )
            tables = []
            for name in (TABLE, EXAMPLES):  # opened here: a path may mean something to Arrow
                with files.open_regular(folder / name) as opened:
                    tables.append(pq.ParquetFile(opened).read())
        except FileNotFoundError as error:
            raise UserError(
                f"{folder}: no features read yet ({Path(error.filename).name} is missing); "
                "`cutaway sae features` reads them"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise UserError(f"{folder}: damaged features: {error}") from None
        return cls(facts, *tables)

    # -- inside ----------------------------------------------------------------------------------

    @cached_property
    def _starts(self) -> np.ndarray:
        owners = self.examples["feature"].to_numpy()
        return np.searchsorted(owners, np.arange(len(self) + 1))


def _marked(example: dict[str, Any]) -> str:
    """An example's window as a line, active tokens marked."""
    from cutaway.figures.text import visible

    shown = []
    for place, (token, value) in enumerate(zip(example["tokens"], example["activations"])):
        text = token.replace("\n", "⏎") if token.isspace() else token
        text = visible(text).replace("␣", " ")
        if place == example["centre"]:
            text = f"«{text}»"
        elif value > 0:
            text = f"[{text}]"
        shown.append(text)
    return "".join(shown)


# -- from a reader's counts -------------------------------------------------------------------------


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
