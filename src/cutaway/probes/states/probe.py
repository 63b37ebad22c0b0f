"""A trained probe: from a hidden state to the probability of each class.

    z = W·((x − μ)·s) + b,   p = softmax(z − log π_train + log π)

μ and s are its normalisation. Training shifts logits towards the classes' shares it saw, π_train
(balanced data, class weights); the last two terms take that out and put the natural shares π in.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cutaway.base import files
from cutaway.base.columns import tensor
from cutaway.base.display import finite
from cutaway.base.doors import door
from cutaway.base.errors import UserError
from cutaway.base.files import as_path
from cutaway.nets.model import ModelReference
from cutaway.nets.quantised import named
from cutaway.nets.sites import Site, parse_site
from cutaway.probes.states.report_rows import asked_words, model_words
from cutaway.text.reading import PLAIN, Reading

FORMAT = 1
FILE, WEIGHTS = "probe.json", "probe.safetensors"


@dataclass(frozen=True)
class ProbeAbout:
    """All a reader of a probe needs, so that nobody asks the user for it.

    `task`, `target`, `classes` as in `ProbeData`; `read` is what a state is: `token` (one
    position), `mean` (over a text) or `first` (where a text begins: [CLS] of encoders); `reading`
    is how texts become tokens, without special ones in probes from before it was recorded. `prior`
    are the classes' natural shares, `trained_prior` those the training saw, its weights included.
    `dtype` is what the model computed in. `strength`: C of the fit (None: not fitted that way).
    `scores`: what it scored on test; `data`: name and sha256 of what it was trained on.
    """

    reference: ModelReference
    site: str
    method: str
    task: str
    classes: tuple[str, ...]
    prior: tuple[float, ...]
    trained_prior: tuple[float, ...]
    target: str | None = None
    target_id: int | None = None
    read: str = "token"
    dtype: str = "float32"
    strength: float | None = None
    context_length: int | None = None
    reading: Reading = PLAIN
    scores: Mapping[str, float | None] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data for a JSON file."""
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        scores = finite(
            dict(self.scores)
        )  # of a class that is never decided for there is no precision
        return {
            "format": FORMAT,
            **plain,
            "scores": scores,
            "reference": self.reference.to_json(),
            "reading": self.reading.to_json(),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ProbeAbout:
        """What `to_json` gave. UserError for anything else and for a newer format."""
        try:
            if isinstance(content["format"], int) and content["format"] > FORMAT:
                raise UserError(
                    f"probe: format {content['format']} is newer than this cutaway reads ({FORMAT})"
                )
            known = {one.name for one in fields(cls)}
            plain = {key: value for key, value in content.items() if key in known}
            plain["reference"] = ModelReference.from_json(plain["reference"])
            if plain.get("reading") is not None:
                plain["reading"] = Reading.from_json(plain["reading"])
            else:
                plain.pop("reading", None)
            for name in ("classes", "prior", "trained_prior"):
                plain[name] = tuple(plain[name])
            return cls(**plain)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"probe: not one ({type(error).__name__}: {error})") from None


@dataclass(frozen=True, repr=False)
class Probe:
    """`probe(hidden)` gives natural probabilities: (..., d) → (...,) of the second class where
    there are two, else (..., classes).

        z = W·((x − mean)·scale) + b,   p = softmax(z − log trained_prior + log prior)

    with z for the second of two classes, the first having 0; the shares are `about`'s. A linear probe has `weight` (outputs, d) and `bias` (outputs,); outputs is 1 for two classes. An
    MLP has `hidden_weight` (h, d) and `hidden_bias` (h,) before them, and weight (outputs, h), with
    a GELU between. `mean` (d,) and `scale` () normalise states. All float32.
    """

    about: ProbeAbout
    weight: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor
    hidden_weight: Tensor | None = None
    hidden_bias: Tensor | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        p = self.natural(hidden).exp()
        return p[..., 1] if len(self.about.classes) == 2 else p

    def __repr__(self) -> str:
        """One line: where, of which model, what it tells, how it was fitted and scored."""
        about = self.about
        told = [asked_words(about.task, about.target, about.classes), about.method]
        score = about.scores.get("balanced_accuracy")
        if score is not None:
            told.append(f"balanced accuracy {score:.3f}")
        of = named(model_words(about.reference.id), about.reference.quantisation)
        return f"Probe({about.site} of {of}: {', '.join(told)})"

    @property
    def width(self) -> int:
        """d of the states it reads."""
        return len(self.mean)

    @property
    def site(self) -> Site:
        """Where in the model these states are."""
        return parse_site(self.about.site)

    @property
    def direction(self) -> Tensor:
        """The unit direction in state space a linear probe of two classes reads along, (d,)."""
        if self.hidden_weight is not None or len(self.weight) != 1:
            raise UserError(
                f"{self.about.site}: only a linear probe of two classes has one direction"
            )
        return torch.nn.functional.normalize(self.weight[0], dim=0)

    def logits(self, hidden: Tensor) -> Tensor:
        """z of the formula above, (..., classes): (0, z) where there are two.

        States may be an array or a table of numbers too. NaN, all of them, for a state that is not
        finite. UserError for states of another width.
        """
        hidden = tensor(hidden, "hidden")
        if not hidden.ndim or hidden.dtype.is_complex:
            raise UserError(
                f"hidden: expected states (..., {self.width}), got {hidden.dtype} of "
                f"shape {tuple(hidden.shape)}"
            )
        if hidden.shape[-1] != self.width:
            raise UserError(
                f"hidden: states {hidden.shape[-1]} wide, and the probe of {self.about.site} reads "
                f"{self.width}"
            )
        x = (hidden.to(self.mean.dtype) - self.mean) * self.scale
        if self.hidden_weight is not None:
            x = torch.nn.functional.gelu(x @ self.hidden_weight.T + self.hidden_bias)
        z = x @ self.weight.T + self.bias
        z = torch.cat([torch.zeros_like(z), z], -1) if z.shape[-1] == 1 else z
        return z.where(sound(hidden), torch.nan)

    def even(self, hidden: Tensor) -> Tensor:
        """log p of each class if all were equally frequent, (..., classes): what the balanced
        accuracy is decided by."""
        return (self.logits(hidden) - self._log(self.about.trained_prior)).log_softmax(-1)

    def natural(self, hidden: Tensor) -> Tensor:
        """log p of each class at its natural share, (..., classes)."""
        return (self.even(hidden) + self._log(self.about.prior)).log_softmax(-1)

    def to(self, device: torch.device | str) -> Probe:
        """The same on a device."""
        moved = {
            one.name: value.to(device)
            if isinstance(value := getattr(self, one.name), Tensor)
            else value
            for one in fields(self)
        }
        return Probe(**moved)

    def _log(self, shares: tuple[float, ...]) -> Tensor:
        return torch.tensor(shares, dtype=self.mean.dtype, device=self.mean.device).log()

    # -- on disk ---------------------------------------------------------------------------

    @door
    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `probe.json` and `probe.safetensors` into a folder; returns it. UserError where it cannot
        be written."""
        folder = Path(folder)
        with files.written_into(folder):
            folder.mkdir(parents=True, exist_ok=True)
            tensors = {
                one.name: value.detach().float().cpu().contiguous()
                for one in fields(self)
                if isinstance(value := getattr(self, one.name), Tensor)
            }
            with files.replacing(folder / WEIGHTS) as path:
                files.save_tensors(tensors, path)
            about = {**self.about.to_json(), "weights_sha256": files.sha256(folder / WEIGHTS)}
            files.write_json(folder / FILE, about)
        return folder

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Probe:
        """A probe by its folder, or by either of its two files.

        UserError for anything else; of a run or a folder of probes it names them.
        """
        from safetensors import SafetensorError

        folder = as_path(path)
        folder = folder.parent if folder.name in (FILE, WEIGHTS) else folder
        if not (folder / FILE).is_file():
            raise UserError(f"{path}: no probe there ({FILE} is missing){_near(folder)}")
        try:
            content = files.read_json(folder / FILE)
            about = ProbeAbout.from_json(content)
            if files.sha256(folder / WEIGHTS) != content.get("weights_sha256"):
                raise UserError(f"{folder}: damaged: {WEIGHTS} is not what {FILE} says")
            tensors = files.load_tensors(folder / WEIGHTS)
            return cls(about, **tensors)
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            raise UserError(f"{folder}: damaged probe: {error}") from None


def sound(states: Tensor) -> Tensor:
    """Which states (..., d) are finite: (..., 1)."""
    return states.isfinite().all(-1, keepdim=True)


def _near(folder: Path) -> str:
    """The probes in a folder or in its `probes/`, as a hint; nothing where there are none."""
    for inside in (folder, folder / "probes"):
        sites = [one.parent.name for one in inside.glob(f"*/{FILE}")]
        if sites:
            sites.sort(key=lambda name: (len(name), name))
            shown = [str((inside / name).relative_to(folder)) for name in sites[:4]]
            return f"; its probes are {', '.join(shown)}" + (", ..." if len(sites) > 4 else "")
    return ""
