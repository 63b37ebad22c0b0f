"""What a dictionary is worth on held-out text: how well it rewrites states, and what the model loses.

Beside it principal components and a random dictionary of the same L0, on the same tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.activations.capture import capture
from cutaway.activations.splice import splice
from cutaway.base import files
from cutaway.base.display import finite
from cutaway.base.errors import UserError
from cutaway.base.progress import progress
from cutaway.dictionaries.base import Dictionary
from cutaway.dictionaries.baselines import PCA, Coder, Learned, RandomDictionary, sample_of
from cutaway.dictionaries.effects import require_model, site_of, skips_first
from cutaway.dictionaries.features import Batch, Text, batches
from cutaway.dictionaries.scores import Reconstruction
from cutaway.nets.model import Model
from cutaway.nets.sites import Site

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
FILE = "evaluation.json"
DENSITY_EDGES = tuple(10.0 ** (exponent / 4) for exponent in range(-24, 1))
_SLICE = 1024  # rows of logits compared at a time
_NAN = float("nan")


@dataclass(frozen=True)
class Evaluation:
    """Figures of one dictionary on `tokens` held-out tokens.

    Position 0 is left out of all of them, unless the dictionary was trained on it.

    `l0` features per token; `dead_share`: of features silent on all these tokens;
    `explained_variance` (predicting the mean scores 0; `_with_first` takes position 0 in),
    `normalised_mse`, `cosine` as `scores.Reconstruction` has them. `ce_*`: cross-entropy of the
    next token, nats, with the site's states left alone, rewritten by the dictionary, zero, or their
    mean;

        ce_recovered = (CE_zero − CE_spliced) / (CE_zero − CE_clean)
        kl_recovered = 1 − KL(clean ‖ spliced) / KL(clean ‖ zero)

    `kl` = KL(clean ‖ spliced), mean nats per token. NaN where the model is no language model (ce)
    or zeroing harms nothing. `density_counts`: features by density, in `DENSITY_EDGES`, of those
    not dead. `threshold`: `start`, `end` and `moved` of the mean threshold over training.
    `baselines`: `pca`, `random`, `random_scaled`, each with the same figures.
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

    def to_json(self) -> dict[str, Any]:
        """Plain data; what is not finite is null."""
        return {"format": FORMAT, **finite(asdict(self)), "density_edges": list(DENSITY_EDGES)}

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
        path = Path(folder) / FILE
        try:
            return cls.from_json(json.loads(path.read_text("utf-8")))
        except FileNotFoundError:
            raise UserError(f"{path}: missing; `cutaway sae eval` writes it") from None
        except ValueError:
            raise UserError(f"{path}: damaged, not JSON") from None


@torch.no_grad()
def evaluate(
    dictionary: Dictionary,
    model: Model,
    contexts: Text,
    *,
    tokens: int | None = None,
    training: Iterable[Tensor] | None = None,
    site: str | int | Site | None = None,
    history: pa.Table | None = None,
    batch_size: int = 1024,
    seed: int = 0,
) -> Evaluation:
    """Measure a dictionary on held-out text (`features.Text`), about `tokens` of it, default all.

    `training`: batches (n, d) of states the dictionary was trained on (a stream's); the baselines
    are fitted on at most 65,536 of them, and left out where none are given. `history`: the run's,
    for the movement of the threshold. Where states are replaced, position 0 keeps its own. Two
    passes: x̄ and L0 first, then the model once per condition; `batch_size` tokens at a time.
    Raises UserError where nothing is left to measure or the dictionary belongs to another model.
    """
    if tokens is not None and tokens < 1:
        raise UserError(f"tokens = {tokens}: expected 1 or more")
    place = model.site(site_of(dictionary, site))
    require_model(dictionary, model.reference, model.width)
    skip = skips_first(dictionary)
    held = _taken(contexts, batch_size, tokens, skip)
    shape = dictionary.shape
    own = Learned(dictionary)
    without, whole = (Reconstruction(shape.d_model, shape.d_hidden) for _ in range(2))
    total = torch.zeros(shape.d_model, dtype=torch.float64)
    device = dictionary.decoder_weight.device
    for ids, mask, _ in held:
        states = capture(model, ids, [place], mask)[place].to(device, torch.float32)
        counted, real = _counted(ids, mask, skip)
        x = states[real.to(device)]
        whole.add(x, *own(x))
        x = states[counted.to(device)]
        if len(x):
            without.add(x, *own(x))
            total += x.double().sum(0).cpu()
    if not without.tokens:
        raise UserError("evaluation: no held-out token (position 0 is left out)")
    figures = without.figures()
    mean = (total / without.tokens).to(device, torch.float32)

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
    losses = _losses(model, place, held, conditions, device, skip)
    recovered = _recovered(losses)
    density = without.density().numpy()
    counts = np.histogram(density[density > 0], np.array(DENSITY_EDGES))[0]
    return Evaluation(
        site=str(place),
        architecture=shape.architecture,
        d_hidden=shape.d_hidden,
        tokens=without.tokens,
        **{name: figures[name] for name in ("l0", "dead_share", "explained_variance")},
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


def threshold_movement(history: pa.Table) -> dict[str, float] | None:
    """The mean threshold at the first and last recorded step, and the farthest it was from the first.

    In the dictionary's scaled units; None where the architecture has none.
    """
    from cutaway.figures.recorded import recorded, rows

    if not recorded(history, "threshold"):
        return None
    values = rows(history, "threshold")[1]
    values = values[np.isfinite(values)]
    start, end = float(values[0]), float(values[-1])
    return {"start": start, "end": end, "moved": float(np.abs(values - start).max())}


_COLUMNS = {
    "l0": "L0",
    "dead_share": "dead",
    "explained_variance": "EV",
    "explained_variance_with_first": "EV with position 0",
    "normalised_mse": "NMSE",
    "cosine": "cosine",
    "ce_recovered": "CE recovered",
    "kl": "KL",
    "kl_recovered": "KL recovered",
}


def table(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """A row per dictionary, then per baseline of it, in the order of sites, for `display.show`."""
    rows = []
    for one in sorted(evaluations, key=_depth):
        figures: dict[str, dict[str, Any]] = {one.architecture: asdict(one), **one.baselines}
        for name, values in figures.items():
            row: dict[str, Any] = {"site": one.site, "coder": name.replace("_", " ")}
            rows.append(row | {head: values.get(key) for key, head in _COLUMNS.items()})
    return rows


def _depth(one: Evaluation) -> Any:
    from cutaway.nets.sites import parse_site

    return parse_site(one.site), one.architecture, one.d_hidden


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
            held.append((ids[part], chosen, None if documents is None else documents[part]))
            count += int(_counted(ids[part], chosen, skip)[0].sum())
            if tokens is not None and count >= tokens:
                return held
    return held


def _counted(ids: Tensor, mask: Tensor | None, skip: bool) -> tuple[Tensor, Tensor]:
    """(batch, T) of booleans: tokens that count (not the first of a context, to `skip`), all."""
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    return real & (real.cumsum(1) > skip), real


def _scored(coder: Coder, score: Reconstruction) -> Callable[[Tensor], Tensor]:
    def rewritten(x: Tensor) -> Tensor:
        reconstruction, codes = coder(x)
        score.add(x, reconstruction, codes)
        return reconstruction

    return rewritten


def _losses(
    model: Model,
    site: Site,
    held: Sequence[Batch],
    conditions: dict[str, Callable[[Tensor], Tensor]],
    device: torch.device,
    skip: bool,
) -> dict[str, tuple[float, float]]:
    """Of `clean` and each condition: mean cross-entropy and KL(clean ‖ condition), nats."""
    sums = {name: torch.zeros(2, dtype=torch.float64) for name in ("clean", *conditions)}
    predicted = compared = 0
    work = sum(ids.numel() for ids, _, _ in held)
    with progress("splicing", work, "tokens") as bar:
        for ids, mask, _ in held:
            counted, real = _counted(ids, mask, skip)
            # predictions from counted positions of the token after them, where there is one
            follows = counted[:, :-1] & real[:, 1:]
            targets = ids[:, 1:][follows]
            clean = model.logits(ids, mask)
            for name, condition in {"clean": None, **conditions}.items():
                changes = {} if condition is None else {site: _change(condition, counted, device)}
                with splice(model, changes) if changes else nullcontext():
                    logits = clean if condition is None else model.logits(ids, mask)
                places = counted.to(logits.device)
                loss = _cross_entropy(logits[:, :-1][follows.to(logits.device)], targets)
                divergence = (
                    0.0 if condition is None else _divergence(clean[places], logits[places])
                )
                sums[name] += torch.tensor([loss, divergence], dtype=torch.float64)
            predicted += len(targets)
            compared += int(counted.sum())
            bar.advance(ids.numel())
    found = {}
    for name, (loss, divergence) in sums.items():
        known = model.causal and predicted
        found[name] = (float(loss) / predicted if known else _NAN, float(divergence) / compared)
    return found


def _change(
    condition: Callable[[Tensor], Tensor], where: Tensor, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """`condition` applied to the states at `where` (batch, T); the others stay."""

    def change(state: Tensor) -> Tensor:
        written = state.clone()
        chosen = where.to(state.device)
        written[chosen] = condition(state[chosen].to(device, torch.float32)).to(written)
        return written

    return change


def _cross_entropy(logits: Tensor, targets: Tensor) -> float:
    total = 0.0
    for part, wanted in zip(logits.split(_SLICE), targets.to(logits.device).split(_SLICE)):
        total += float(F.cross_entropy(part.float(), wanted, reduction="none").double().sum())
    return total


def _divergence(clean: Tensor, other: Tensor) -> float:
    """Σ over rows of KL(softmax(clean) ‖ softmax(other))."""
    total = 0.0
    for one, two in zip(clean.split(_SLICE), other.split(_SLICE)):
        p, q = one.float().log_softmax(-1), two.float().log_softmax(-1)
        total += float((p.exp() * (p - q)).double().sum())
    return total


def _recovered(losses: dict[str, tuple[float, float]]) -> dict[str, dict[str, float]]:
    """`ce`, `ce_recovered`, `kl`, `kl_recovered` of each condition."""
    clean, (zero, kl_zero) = losses["clean"][0], losses["zero"]
    harm = zero - clean
    found = {}
    for name, (loss, kl) in losses.items():
        found[name] = {
            "ce": loss,
            "ce_recovered": (zero - loss) / harm if harm > 0 or math.isnan(harm) else _NAN,
            "kl": kl,
            "kl_recovered": 1 - kl / kl_zero if kl_zero > 0 else _NAN,
        }
    return found
