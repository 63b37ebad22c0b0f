"""The store: hidden states of any sites on disk, memory-mapped, with where each row came from.

    manifest.json            format 1: model, sites, dtype, data, every shard with size and SHA-256
    shards/00000.safetensors per site `<site>` (rows, d) [and `<site>.scale` (rows,) for int8] and
                             `<site>.sums` (2, d) float64; `tokens`, `positions`, `documents` int32

A row is one token; the same row of every site is the same token. Position 0, an attention sink in
most models, is stored, and left out of the means and (by default) of streams.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from cutaway.activations.manifest_keys import wrong
from cutaway.activations.quantise import DTYPES, dequantise
from cutaway.activations.shards import mapped
from cutaway.base import files
from cutaway.base.doors import door
from cutaway.base.errors import UserError, nearest
from cutaway.base.files import as_path
from cutaway.nets.model import ModelReference
from cutaway.nets.sites import Site, parse_site
from cutaway.runs import record, verifying
from cutaway.runs.folder import Run
from cutaway.text.reading import Reading

if TYPE_CHECKING:
    from cutaway.text.tokenizers import Tokenizer

FORMAT = 1
MANIFEST, SHARDS = "manifest.json", "shards"
STUDY = "activations"
Positions = Literal["rest", "first", "all"]


class ActivationStore:
    """The hidden states in the folder `path`. Missing and truncated shards are named at once.

    Rows are counted over all shards from 0. A store whose extraction has not ended holds the
    shards that are complete. Raises UserError where there is no store, or a damaged one.
    """

    def __init__(self, path: str | Path):
        self.path = as_path(path)
        self.manifest = read_manifest(self.path)
        if found := missing(self.path, self.manifest):
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise UserError(f"{found[0]}{more}")
        self.reference = ModelReference.from_json(self.manifest["reference"])
        self.sites: list[Site] = [parse_site(name) for name in self.manifest["sites"]]
        self.width: int = self.manifest["width"]
        self.dtype: str = self.manifest["dtype"]
        self.complete: bool = self.manifest["complete"]
        self._shards = self.manifest["shards"]
        self._ends = list(accumulate(shard["rows"] for shard in self._shards))
        self._maps: dict[int, dict[str, Tensor]] = {}
        self.rows: int = self._ends[-1] if self._ends else 0
        if not self.rows:
            raise UserError(f"{self.path}: no rows in this store; its extraction wrote no shard")

    @cached_property
    def reading(self) -> Reading:
        """How its text was read (`text.reading`)."""
        return reading_of(self.manifest, self.tokenizer)

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer its text was read with; None where none is kept beside it."""
        from cutaway.text.tokenizers import Tokenizer

        folder = self.path / "tokenizer"
        return Tokenizer.load(folder) if folder.is_dir() else None

    # -- rows ------------------------------------------------------------------------------

    @door
    def site(self, text: str | int | Site) -> Site:
        """The site of that name, if the store has it; UserError lists what is there."""
        there = {str(site): site for site in self.sites}
        wanted = text if isinstance(text, Site) else parse_site(str(text))
        if str(wanted) not in there:
            raise UserError(
                f"site = {str(text)!r}: {self.path} holds {', '.join(there)}"
                f"{nearest(str(wanted), there)}"
            )
        return there[str(wanted)]

    @door
    def read(self, site: str | int | Site, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows start to stop − 1 of a site as float32 (rows, d), dequantised."""
        stop = self.rows if stop is None else stop
        self._require_rows(start, stop)
        out = torch.empty(stop - start, self.width)
        place = 0
        for codes, scale in self.raw(self.site(site), start, stop):
            piece = out[place : place + len(codes)]
            piece.copy_(codes if scale is None else dequantise(codes, scale))
            place += len(codes)
        return out

    def raw(self, site: Site, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Rows as they are stored, a memory-mapped view per shard, with int8's scales.

        The views must not be written to.
        """
        name = str(site)
        for shard, first, last in self._spans(start, stop):
            tensors = self._tensors(shard)
            scale = tensors.get(f"{name}.scale")
            yield tensors[name][first:last], None if scale is None else scale[first:last]

    @door
    def tokens(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Token ids of rows start to stop − 1, int32."""
        return self._column("tokens", start, stop)

    @door
    def positions(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Positions of rows within their contexts, int32."""
        return self._column("positions", start, stop)

    @door
    def documents(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Which document of the source each row is of, counted from 0, int32."""
        return self._column("documents", start, stop)

    @door
    def split(self, share: float) -> tuple[range, range]:
        """(train, validation) rows: the last `share`, cut at the nearest document border.

        Where there is none near (one long document) the nearest context border is taken.
        """
        if not 0 < share <= 0.5:
            raise UserError(f"validation share = {share}: expected a number over 0 and at most 0.5")
        wanted = round(self.rows * (1 - share))
        reach = max(1, round(self.rows * share / 2))
        low, high = max(0, wanted - reach), min(self.rows, wanted + reach)
        documents, positions = self.documents(low, high), self.positions(low, high)
        for borders in (documents[1:] != documents[:-1], positions[1:] <= positions[:-1]):
            places = borders.nonzero().flatten() + low + 1
            if len(places):
                at = int(places[(places - wanted).abs().argmin()])
                return range(at), range(at, self.rows)
        raise UserError(
            f"{self.path}: {self.rows:,} rows hold no document or context border near the last "
            f"{share:.0%}; extract more tokens"
        )

    # -- statistics ------------------------------------------------------------------------

    @door
    def mean(self, site: str | int | Site, positions: Positions = "rest") -> Tensor:
        """Mean state x̄, float64 (d,): of all rows but those at position 0, of those, or of all."""
        name = str(self.site(site))
        sums = torch.zeros(2, self.width, dtype=torch.float64)
        for index in range(len(self._shards)):
            sums += self._tensors(index)[f"{name}.sums"]
        rows = self.statistics(site, positions)["rows"]
        return sums[_parts(positions)].sum(0) / max(1, rows)

    @door
    def mean_squared_norm(self, site: str | int | Site, positions: Positions = "rest") -> float:
        """E‖x‖² over the rows that `positions` names."""
        return self.statistics(site, positions)["mean_squared_norm"]

    @door
    def mean_norm(self, site: str | int | Site, positions: Positions = "rest") -> float:
        """E‖x‖ over the rows that `positions` names."""
        return self.statistics(site, positions)["mean_norm"]

    @door
    def statistics(self, site: str | int | Site, positions: Positions = "rest") -> dict[str, Any]:
        """`rows`, `mean_squared_norm`, `mean_norm` of a site, summed in float64."""
        return statistics(self._shards, str(self.site(site)), positions)

    # -- checking --------------------------------------------------------------------------

    def verify(self) -> list[str]:
        """Read every file of the store and compare its SHA-256; one line per damaged one."""
        return damages(self.path)

    # -- inside ----------------------------------------------------------------------------

    def _spans(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """(shard, first, last) rows within shards that make up rows start to stop − 1."""
        self._require_rows(start, stop)
        shard = bisect_right(self._ends, start)
        while start < stop:
            before = self._ends[shard] - self._shards[shard]["rows"]
            end = min(stop, self._ends[shard])
            if end > start:
                yield shard, start - before, end - before
            start, shard = end, shard + 1

    def _require_rows(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.rows:
            raise IndexError(f"rows {start} to {stop}: {self.path} has {self.rows}")

    def _column(self, name: str, start: int, stop: int | None) -> Tensor:
        spans = self._spans(start, self.rows if stop is None else stop)
        pieces = [self._tensors(shard)[name][first:last] for shard, first, last in spans]
        return torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.int32)

    def _tensors(self, shard: int) -> dict[str, Tensor]:
        if shard not in self._maps:
            self._maps[shard] = mapped(self.path / SHARDS / self._shards[shard]["file"])
        return self._maps[shard]

    @cached_property
    def context_length(self) -> int:
        """Tokens of a context, BOS included."""
        return self.manifest["data"]["context_length"]


def reading_of(manifest: Mapping[str, Any], tokenizer: Tokenizer | None) -> Reading:
    """How the text of a manifest was read; of one from before readings were recorded: with `bos` or
    nothing before contexts, `end_of_text` after documents."""
    about = manifest["data"]
    if about.get("reading") is not None:
        return Reading.from_json(about["reading"])
    end = None if tokenizer is None else tokenizer.end_of_text
    return Reading.of_before(about.get("bos"), end, about["context_length"])


def statistics(
    shards: list[dict[str, Any]], site: str, positions: Positions = "rest"
) -> dict[str, Any]:
    """A site's figures over shards of a manifest: see `ActivationStore.statistics`."""
    if not isinstance(positions, str) or positions not in ("rest", "first", "all"):
        raise UserError(f"positions = {positions!r}: expected rest, first or all")
    keys = ("rest", "first") if positions == "all" else (positions,)
    sums = [0, 0.0, 0.0]
    for shard in shards:
        for key in keys:
            sums = [a + b for a, b in zip(sums, shard["statistics"][site][key])]
    rows = max(1, sums[0])
    return {"rows": sums[0], "mean_squared_norm": sums[1] / rows, "mean_norm": sums[2] / rows}


def _parts(positions: Positions) -> slice:
    return {"rest": slice(0, 1), "first": slice(1, 2), "all": slice(0, 2)}[positions]


# -- files -------------------------------------------------------------------------------------


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the store in `path`; UserError where there is none, or another format."""
    place = path / MANIFEST
    try:
        content = files.read_json(place)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(_no_store(path)) from None
    except OSError as error:
        raise UserError(f"{place}: cannot read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{place}: damaged, not JSON: {error}") from None
    form = content.get("format") if isinstance(content, dict) else None
    if isinstance(form, int) and form > FORMAT:
        raise UserError(
            f"{place}: format {form} is newer than this cutaway reads ({FORMAT}); update it"
        )
    if form != FORMAT or content.get("kind") != STUDY or content.get("dtype") not in DTYPES:
        raise UserError(f"{place}: not the manifest of an activation store of format {FORMAT}")
    if why := wrong(content):
        raise UserError(f"{place}: damaged: {why}")
    return content


def _no_store(path: Path) -> str:
    if not path.exists():
        return f"{path}: no such folder; `cutaway extract MODEL --out {path}` makes a store"
    if not (path / record.FILE).is_file():
        return f"{path}: no activation store (no {MANIFEST} there); `cutaway extract` makes one"
    study = Run.open(path).record.study
    if study == STUDY:
        return f"{path}: its extraction wrote no shard yet; go on with it by --resume"
    return f"{path}: holds a {study} run, not an activation store"


def damages(path: str | Path) -> list[str]:
    """Check every file of a store; one line per damaged one.

    Of a store without `checksums.json` (its extraction has not ended, or an earlier version wrote
    it) the shards are checked, by size and SHA-256.
    """
    return verifying.verify(Path(path)).damages


def _of_shards(path: Path) -> list[str]:
    """What is wrong with a store by its own manifest."""
    try:
        return _damaged_shards(path)
    except UserError as error:
        if not (path / MANIFEST).exists() and Run.open(path).status != "done":
            return []  # it was stopped before its first shard
        return [str(error)]


verifying.parts[STUDY] = _of_shards


def _damaged_shards(path: Path) -> list[str]:
    manifest = read_manifest(path)
    found = missing(path, manifest)
    named = {line.partition(": ")[0] for line in found}
    for shard in manifest["shards"]:
        file = path / SHARDS / shard["file"]
        try:
            if str(file) not in named and files.sha256(file) != shard["sha256"]:
                found.append(f"{file}: damaged, its content differs from its checksum")
        except OSError as error:
            found.append(f"{file}: cannot read: {error.strerror}")
    return found


def missing(path: Path, manifest: dict[str, Any]) -> list[str]:
    """A line per shard that is not there, is no file or has another size."""
    found = []
    for shard in manifest["shards"]:
        file = path / SHARDS / shard["file"]
        try:
            files.require_inside(path, f"{SHARDS}/{shard['file']}")
            files.require_regular(file)
            size = file.stat().st_size
        except UserError as error:
            found.append(str(error))
            continue
        except FileNotFoundError:
            found.append(f"{file}: missing")
            continue
        except OSError as error:
            found.append(f"{file}: cannot read: {error.strerror}")
            continue
        if size != shard["bytes"]:
            found.append(f"{file}: damaged, {size} bytes instead of {shard['bytes']}")
    return found
