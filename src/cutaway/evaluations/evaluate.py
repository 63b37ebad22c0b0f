"""What a dictionary is worth on held-out text: how well it rewrites states, and what the model loses.

Beside it principal components and a random dictionary of the same L0, on the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cutaway.activations.capture import capture
from cutaway.base import files, hardware
from cutaway.base.display import finite, notice
from cutaway.base.errors import UserError
from cutaway.base.files import as_path
from cutaway.base.progress import progress
from cutaway.dictionaries.model.dictionary import Dictionary
from cutaway.dictionaries.model.reconstruction import Reconstruction
from cutaway.dictionaries.origin import require_model_at, skips_first
from cutaway.evaluations.baselines import PCA, Coder, Learned, RandomDictionary, sample_of
from cutaway.evaluations.losses import counted_tokens, losses_of, recovered_from
from cutaway.evaluations.missing import lines, reasons
from cutaway.features.reader import Batch, Text, batches
from cutaway.nets.check import tell
from cutaway.nets.model import Model
from cutaway.nets.quantised import dequantised
from cutaway.nets.sites import Site

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
FILE = "evaluation.json"
DEAD_TOKENS = 1_000_000  # held-out tokens over which a feature must be silent to count as dead
DENSITY_EDGES = tuple(10.0 ** (exponent / 4) for exponent in range(-24, 1))
_NAN = float("nan")


@dataclass(frozen=True)
class Evaluation:
    """Figures of one dictionary on `tokens` held-out tokens.

    Position 0 is left out of all of them, unless the dictionary was trained on it.

    `l0` features per token; `dead_share`: of features silent on all of `dead_tokens`, which are
    the whole held-out part where that is known, at most a million (else these tokens);
    `explained_variance` (predicting the mean scores 0; `_with_first` takes position 0 in),
    `normalised_mse`, `cosine` as `scores.Reconstruction` has them. `ce_*`: cross-entropy of the
    next token, nats, with the site's states left alone, rewritten by the dictionary, zero, or their
    mean;

        ce_recovered = (CE_zero − CE_spliced) / (CE_zero − CE_clean)
        kl_recovered = 1 − KL(clean ‖ spliced) / KL(clean ‖ zero)

    `kl` = KL(clean ‖ spliced), mean nats per token. NaN where the model is no language model (ce)
    or zeroing harms nothing. `density_counts`: features by density, in `DENSITY_EDGES`, of those
    that fire on these tokens. `threshold`: `start`, `end` and `moved` of the mean threshold over
    training.
    `baselines`: `pca`, `random`, `random_scaled`, each with the same figures.
    `ground_truth`: of synthetic states, the dictionary against what they are made of
    (`synthetic.measures.Comparison`).
    `non_finite` states were not finite; they are in no figure. `left_out`: figures that this model or
    this text cannot give (they are NaN, null in the file), each with the reason; a baseline's is named
    `pca.kl`. `quantisation`: how the model's
    weights were stored before they were dequantised (`nets.model.ModelReference`).
    `text` names what was judged on; `held_out` whether it is known to have been kept out of the
    training (true), to be of it (false), or neither (None, in the file `unknown`).
    """

    site: str
    architecture: str
    d_hidden: int
    tokens: int
    l0: float
    dead_share: float
    explained_variance: float
    explained_variance_with_first: float
    normalised_mse: float
    cosine: float
    ce_clean: float
    ce_spliced: float
    ce_zero: float
    ce_mean: float
    ce_recovered: float
    kl: float
    kl_zero: float
    kl_recovered: float
    density_counts: list[int]
    threshold: dict[str, float] | None = None
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    dead_tokens: int | None = None
    text: str | None = None
    held_out: bool | None = None
    ground_truth: dict[str, float] | None = None
    non_finite: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    quantisation: str | None = None

    def with_reasons(self) -> Evaluation:
        """The same, with a reason in `left_out` for every figure that is not finite."""
        return replace(self, left_out=reasons(asdict(self), self.baselines, self.left_out))

    def to_json(self) -> dict[str, Any]:
        """Plain data; what is not finite is null."""
        plain = {"format": FORMAT, **finite(asdict(self)), "density_edges": list(DENSITY_EDGES)}
        if self.quantisation is None:
            del plain["quantisation"]
        return plain | {"held_out": "unknown" if self.held_out is None else self.held_out}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Evaluation:
        """What `to_json` gave; UserError for anything else."""
        names = {one.name: one.type for one in fields(cls)}
        try:
            if content["format"] > FORMAT:
                raise UserError(
                    f"evaluation: format {content['format']} is newer than this cutaway reads "
                    f"({FORMAT}); update it"
                )
            known = {name: content[name] for name in names if name in content}
            for name, kind in names.items():
                if kind == "float" and known.get(name, 0) is None:
                    known[name] = _NAN
            if known.get("held_out") == "unknown":
                known["held_out"] = None
            known["baselines"] = {
                name: {key: _NAN if value is None else value for key, value in one.items()}
                for name, one in content["baselines"].items()
            }
            return cls(**known)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"evaluation: not one ({error})") from None

    def save(self, folder: str | Path) -> Path:
        """Write `evaluation.json` into a folder; returns its path."""
        path = Path(folder) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, self.to_json())
        return path

    @classmethod
    def load(cls, folder: str | Path) -> Evaluation:
        """What `save` wrote; UserError where there is none."""
        path = as_path(folder) / FILE
        try:
            return cls.from_json(files.read_json(path))
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{path}: missing; `cutaway sae eval` writes it") from None
        except ValueError as error:
            raise UserError(f"{path}: damaged, not JSON: {error}") from None
        except OSError as error:
            raise UserError(f"{path}: cannot read: {error.strerror}") from None


@torch.no_grad()
def evaluate(
    dictionary: Dictionary,
    model: Model,
    contexts: Text,
    *,
    tokens: int | None = None,
    training: Iterable[Tensor] | None = None,
    states: Iterable[Tensor] | None = None,
    site: str | int | Site | None = None,
    history: pa.Table | None = None,
    batch_size: int = 1024,
    seed: int = 0,
) -> Evaluation:
    """Measure a dictionary on held-out text (`features.Text`), about `tokens` of it, default all.

    `training`: batches (n, d) of states the dictionary was trained on (a stream's); the baselines
    are fitted on at most 65,536 of them, and left out where none are given. `states`: batches
    (n, d) of the whole held-out part, of which a million say which features are dead. `history`:
    the run's, for the movement of the threshold. Where states are replaced, position 0 keeps its
    own. Two passes: x̄ and L0 first, then the model once per condition; `batch_size` tokens at a
    time.
    Raises UserError where nothing is left to measure or the dictionary belongs to another model.
    """
    if tokens is not None and tokens < 1:
        raise UserError(f"tokens = {tokens}: expected 1 or more")
    place = require_model_at(dictionary, model, site)
    skip = skips_first(dictionary)
    tell(model, [place])
    held = _taken(contexts, batch_size, tokens, skip)
    shape = dictionary.shape
    own = Learned(dictionary)
    without, whole = (Reconstruction(shape.d_model, shape.d_hidden) for _ in range(2))
    total = torch.zeros(shape.d_model, dtype=torch.float64)
    device = dictionary.decoder_weight.device
    for ids, mask, documents in held:
        captured = capture(model, ids, [place], mask)[place].to(device, torch.float32)
        counted, real = counted_tokens(ids, mask, skip, documents)
        x = captured[real.to(device)]
        whole.add(x, *own(x))
        x = captured[counted.to(device)]
        if len(x):
            without.add(x, *own(x))
            total += hardware.widened(x[x.isfinite().all(1)]).sum(0).cpu()
    if broken := without.non_finite:
        of = f"{broken:,} of {broken + without.tokens:,} held-out states at {place} are not finite"
        if not without.tokens:
            raise UserError(f"evaluation: {of}; nothing is left to judge on")
        notice(f"{of}: left out of every figure")
    if not without.tokens:
        raise UserError("evaluation: no held-out token (position 0 is left out)")
    figures = without.figures()
    fired, dead_tokens = _firing(own, states, device)
    silent = (without.fired == 0) & (fired == 0)
    mean = (total / without.tokens).float().to(device)

    coders: dict[str, Coder] = {}
    if training is not None:
        k = max(1, round(figures["l0"]))
        sample = sample_of(training, device)
        coders["pca"] = PCA(sample, k)
        for name, scaled in (("random", False), ("random_scaled", True)):
            coders[name] = RandomDictionary(sample, shape.d_hidden, k, scaled=scaled, seed=seed)
    scores = {name: Reconstruction(shape.d_model, one.features) for name, one in coders.items()}
    conditions: dict[str, Callable[[Tensor], Tensor]] = {
        "spliced": lambda x: own(x)[0],
        "zero": torch.zeros_like,
        "mean": lambda x: mean.expand_as(x),
        **{name: _scored(one, scores[name]) for name, one in coders.items()},
    }
    losses = losses_of(model, place, held, conditions, device, skip)
    recovered = recovered_from(losses)
    density = without.density().numpy()
    counts = np.histogram(density[density > 0], np.array(DENSITY_EDGES))[0]
    found = Evaluation(
        site=str(place),
        architecture=shape.architecture,
        d_hidden=shape.d_hidden,
        tokens=without.tokens,
        l0=figures["l0"],
        dead_share=float(silent.double().mean()),
        dead_tokens=max(dead_tokens, without.tokens),
        explained_variance=figures["explained_variance"],
        explained_variance_with_first=whole.figures()["explained_variance"],
        **{name: figures[name] for name in ("normalised_mse", "cosine")},
        ce_clean=losses["clean"][0],
        ce_zero=losses["zero"][0],
        ce_mean=losses["mean"][0],
        kl_zero=losses["zero"][1],
        ce_spliced=losses["spliced"][0],
        **{name: recovered["spliced"][name] for name in ("ce_recovered", "kl", "kl_recovered")},
        density_counts=counts.tolist(),
        threshold=None if history is None else threshold_movement(history),
        non_finite=broken,
        left_out=model.abilities.left_out(),
        quantisation=model.reference.quantisation,
        baselines={
            name: {
                key: value
                for key, value in one.figures().items()
                if key in ("l0", "explained_variance", "normalised_mse", "cosine")
            }
            | recovered[name]
            for name, one in scores.items()
        },
    )
    return found.with_reasons()


def threshold_movement(history: pa.Table) -> dict[str, float] | None:
    """The mean threshold at the first and last recorded step, and the farthest it was from the first.

    In the dictionary's scaled units; None where the architecture has none.
    """
    from cutaway.figures.recorded import recorded, rows

    if not recorded(history, "threshold"):
        return None
    values = rows(history, "threshold")[1]
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    start, end = float(values[0]), float(values[-1])
    return {"start": start, "end": end, "moved": float(np.abs(values - start).max())}


_COLUMNS = {
    "l0": "L0",
    "dead_share": "dead",
    "dead_tokens": "dead over",
    "explained_variance": "EV",
    "explained_variance_with_first": "EV with position 0",
    "normalised_mse": "NMSE",
    "cosine": "cosine",
    "ce_recovered": "CE recovered",
    "kl": "KL",
    "kl_recovered": "KL recovered",
}
_OF_MODEL = ("explained_variance_with_first", "ce_recovered", "kl", "kl_recovered")
_OF_TRUTH = {
    "mmcs": "MMCS",
    "matched_f1": "matched F1",
    "absorption": "absorption",
    "parents_missing": "parents missing",
}


def table(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """A row per dictionary, then per baseline of it, in the order of sites, for `display.show`."""
    columns = _columns(evaluations)
    rows = []
    for one in sorted(evaluations, key=_depth):
        own = asdict(one) | (one.ground_truth or {})
        figures: dict[str, dict[str, Any]] = {one.architecture: own, **one.baselines}
        for name, values in figures.items():
            row: dict[str, Any] = {"site": one.site, "coder": name.replace("_", " ")}
            known = {key: None if key in one.left_out else values.get(key) for key in columns}
            row |= {head: known[key] for key, head in columns.items()}
            rows.append(row | ({"weights": of} if (of := dequantised(one.quantisation)) else {}))
    return rows


def left_out(evaluations: Sequence[Evaluation]) -> list[str]:
    """Why `table` shows no figure in some places: one line for each reason."""
    return lines(((one.site, one.left_out) for one in evaluations), _columns(evaluations))


def _columns(evaluations: Sequence[Evaluation]) -> dict[str, str]:
    truths = [one.ground_truth or {} for one in evaluations]
    columns = {
        key: head
        for key, head in _COLUMNS.items()
        if key not in _OF_MODEL or not all(truths)  # synthetic states are of no model
    }
    return columns | {
        key: head for key, head in _OF_TRUTH.items() if any(key in one for one in truths)
    }


def _depth(one: Evaluation) -> Any:
    from cutaway.nets.sites import parse_site

    if one.ground_truth is not None:
        return True, one.site, one.architecture, one.d_hidden
    return False, parse_site(one.site), one.architecture, one.d_hidden


# -- inside --------------------------------------------------------------------------------------


def _taken(contexts: Text, batch_size: int, tokens: int | None, skip: bool) -> list[Batch]:
    """The batches that are measured; token ids only, so they are held."""
    held: list[Batch] = []
    count = 0
    for ids, mask, documents in batches(contexts, batch_size):
        step = max(1, batch_size // ids.shape[1])
        for start in range(0, len(ids), step):
            part = slice(start, start + step)
            chosen = None if mask is None else mask[part]
            owners = None if documents is None else documents[part]
            held.append((ids[part], chosen, owners))
            count += int(counted_tokens(ids[part], chosen, skip, owners)[0].sum())
            if tokens is not None and count >= tokens:
                return held
    return held


def _firing(
    own: Learned, states: Iterable[Tensor] | None, device: torch.device
) -> tuple[Tensor, int]:
    """On how many of the first million states each feature fires, (F,), and of how many."""
    fired, count = torch.zeros(own.features, dtype=torch.float64), 0
    with progress("looking for dead features", None, "states") as bar:
        for batch in () if states is None else states:
            x = batch[: DEAD_TOKENS - count].to(device, torch.float32)
            x = x[x.isfinite().all(1)]
            fired += own.dictionary.encode_sparse(x).fired().cpu()
            count += len(x)
            bar.update(count)
            if count >= DEAD_TOKENS:
                break
    return fired, count


def _scored(coder: Coder, score: Reconstruction) -> Callable[[Tensor], Tensor]:
    def rewritten(x: Tensor) -> Tensor:
        reconstruction, codes = coder(x)
        score.add(x, reconstruction, codes)
        return reconstruction

    return rewritten
