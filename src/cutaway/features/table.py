"""What was read of a dictionary's features: one row each, their examples, and files of both.

features.json       what was read and how, which features are dead
features.parquet    one row per feature
examples.parquet    one row per example, strongest first
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cutaway.base import files
from cutaway.base.errors import UserError
from cutaway.base.files import as_path

if TYPE_CHECKING:
    import pyarrow as pa


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
