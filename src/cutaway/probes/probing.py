"""Every layer's probe with its scores, and beside it what the controls score.

The model is read once for all layers. At each layer the true labels and those of the controls are
fitted in one solve; everything is scored on test examples, whose documents nothing has seen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.base.progress import progress
from cutaway.base.seeds import stream
from cutaway.nets.model import Model
from cutaway.nets.sites import Site, parse_site
from cutaway.nets.untrained import untrained
from cutaway.probes import controls as control
from cutaway.probes.asked import SOLVED, Asked, usable_controls
from cutaway.probes.data import Examples, ProbeData
from cutaway.probes.evaluation import (
    Judgement,
    confusion_rows,
    drawn_groups,
    judge,
    one_sided,
    reliability,
    reward_hacking,
)
from cutaway.probes.fitting import LayerFits, fit_layer, fit_mass_mean
from cutaway.probes.inputs import Inputs, label_sets, require_classes, require_varied
from cutaway.probes.probe import Probe, ProbeAbout
from cutaway.probes.states import States

DRAWS = 3  # random labellings of each kind of control
SCORES = (
    *("balanced_accuracy", "low", "high", "recall", "specificity", "accuracy", "precision", "f1"),
    *("auroc", "average_precision", "brier", "expected_calibration_error", "log_loss"),
)


@dataclass
class Findings:
    """Rows of the tables (see `docs/probes.md`), a probe per layer, and what went wrong.

    `failures` says which probes predict one class only; `warnings` which come near it.
    """

    layers: list[dict[str, Any]] = field(default_factory=list)
    controls: list[dict[str, Any]] = field(default_factory=list)
    reliability: list[dict[str, Any]] = field(default_factory=list)
    confusion: list[dict[str, Any]] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def best(self) -> Probe:
        """The probe of the layer that is best on validation: test chooses nothing."""
        scores = [row["validation_balanced_accuracy"] for row in self.layers]
        return self.probes[max(range(len(scores)), key=scores.__getitem__)]

    def probe(self, site: str | int | Site) -> Probe:
        """The probe of a site; UserError where there is none."""
        wanted = parse_site(site)
        for one in self.probes:
            if one.site == wanted:
                return one
        known = ", ".join(one.about.site for one in self.probes)
        raise UserError(f"site = {str(site)!r}: there are probes of {known}")

    @property
    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """The rows by the name of their table."""
        return {
            name: getattr(self, name) for name in ("layers", "controls", "reliability", "confusion")
        }


def probe_layers(
    inputs: Inputs,
    asked: Asked,
    *,
    given: Sequence[Probe] | None = None,
    folder: Path | None = None,
) -> Findings:
    """Fit and judge a probe at every site; with `given` probes (one per site) these are judged.

    `folder` is where states that do not fit the memory are kept meanwhile. Raises UserError where
    nothing can be told apart. What fails later is in the findings' `failures`.
    """
    data, found = inputs.data, Findings()
    if given is None and asked.method not in SOLVED:
        raise UserError(
            f"method = {asked.method!r}: expected {' or '.join(SOLVED)}; others are trained by steps, "
            "with `cutaway probe train`"
        )
    wanted = usable_controls(asked.controls, data, inputs.model)
    own = "model" in wanted
    parts: dict[str, tuple[States, Examples]] = {}
    for part in ("train", "validation", "test"):
        states, examples = inputs.states(part, own=own and part != "validation", folder=folder)
        parts[part] = states, examples
        if part == "train":
            require_varied(states)
    examples = {part: one for part, (_, one) in parts.items()}
    require_classes(replace(data, parts=examples))  # what states that are not finite have left
    judged = _Judging(data, asked, examples, wanted, found)
    with progress("fitting", len(inputs.sites), "layers") as bar:
        for index, site in enumerate(inputs.sites):
            at = {part: states.values[index] for part, (states, _) in parts.items()}
            judged.layer(site, at, inputs.model, given[index] if given else None)
            bar.update(index + 1)
    if "current_token" in wanted:
        judged.current_token()
    if own:
        judged.model(parts["train"][0].own, parts["test"][0].own)
    parts.clear()  # before the untrained model's states come
    if "untrained" in wanted:
        _untrained(inputs, judged, folder)
    return found


def _untrained(inputs: Inputs, judged: _Judging, folder: Path | None) -> None:
    """The true labels on the states of the same architecture with random weights."""
    fresh = untrained(inputs.model, inputs.model.reference.id, judged.asked.seed)
    parts = {
        part: inputs.states(part, model=fresh, folder=folder)
        for part in ("train", "validation", "test")
    }
    examples = {part: one for part, (_, one) in parts.items()}
    for index, site in enumerate(inputs.sites):
        at = {part: states.values[index] for part, (states, _) in parts.items()}
        if not bool((at["train"][:1] != at["train"]).any()):
            notice(f"untrained: {site}: all states are the same; left out")
            continue
        judged.untrained(site, at, examples)


class _Judging:
    """What the layers share: labels, documents, priors, and the rows that are being made."""

    def __init__(
        self,
        data: ProbeData,
        asked: Asked,
        examples: Mapping[str, Examples],
        wanted: Sequence[str],
        found: Findings,
    ):
        self.data, self.asked, self.examples, self.found = data, asked, examples, found
        self.classes = len(data.classes)
        self.prior = torch.tensor(data.prevalence).float()
        self.label = {part: one.label for part, one in examples.items()}
        self.documents = {part: one.document for part, one in examples.items()}
        self.groups = self._groups()
        self.sets, self.seen = self._sets(wanted)
        self.with_means = "mass_mean" in wanted

    def _groups(self) -> Tensor:
        """What intervals draw; where that is not documents, a warning says so."""
        documents = self.documents["test"]
        groups, whole = drawn_groups(documents)
        if not whole:
            self.found.warnings.append(
                f"test has {len(documents.unique())} documents: intervals are over stretches of their "
                "text, and do not speak for other documents"
            )
        return groups

    # -- one layer -------------------------------------------------------------------------

    def layer(
        self,
        site: Site,
        at: Mapping[str, Tensor],
        model: Model,
        given: Probe | None,
    ) -> None:
        """The probe of a site, and the controls that are fitted there."""
        began = time.monotonic()
        method = given.about.method if given else self.asked.method
        fits = None
        if method == "exact" or len(self.sets["train"]) > 1:
            fits = self._fits(at, self.sets)
        means = None
        if method == "mass_mean" or self.with_means:
            means = fit_mass_mean(at["train"], self.label["train"], self.classes)
        if given is None:
            chosen = means if method == "mass_mean" else fits
            given = self._probe(site, model, chosen)
        seconds = time.monotonic() - began
        self._record(site, given, at, fits if method == "exact" else None, seconds)
        if fits is not None:
            self._of_sets(site, fits.even(at["test"]))
        if means is not None and method != "mass_mean":
            self._control("mass_mean", site, self._judge(means.even(at["test"])[0]))

    def untrained(
        self, site: Site, at: Mapping[str, Tensor], examples: Mapping[str, Examples]
    ) -> None:
        """The true labels on the states of a model that learnt nothing."""
        sets = {part: one.label[None] for part, one in examples.items()}
        fits = self._fits(at, sets, examples["validation"].document)
        even, test = fits.even(at["test"])[0], examples["test"]
        groups = drawn_groups(test.document)[0]
        score = judge(even, self._natural(even), test.label, groups, seed=self.asked.seed)
        self._control("untrained", site, score)

    def _sets(self, wanted: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Label sets (P, n) of each part: the true ones, then DRAWS of each control of labels in the
        order of `seen`, which says of which test examples (m,) these are."""
        sets = {part: [label] for part, label in self.label.items()}
        seen: dict[str, Tensor] = {}
        if "shuffled" in wanted:
            seen["shuffled"] = torch.ones_like(self.label["test"], dtype=torch.bool)
            for part, label in self.label.items():
                for draw in range(DRAWS):
                    seed = stream(self.asked.seed, draw, "shuffled labels")
                    sets[part].append(control.shuffled(label, seed, part))
        if "token_type" in wanted:
            types = {part: one.token() for part, one in self.examples.items()}
            counts = self.label["train"].bincount(minlength=self.classes).float()
            try:
                labels, known = control.token_type_labels(
                    types, counts / counts.sum(), DRAWS, self.asked.seed
                )
            except UserError as error:  # hardly any token types, as where texts end in full stops
                notice(f"left out: {str(error).partition(';')[0]}")
            else:
                seen["token_type"] = known["test"]
                for part, every in sets.items():
                    every.append(labels[part])
        return {part: label_sets(*every) for part, every in sets.items()}, seen

    def _fits(
        self,
        at: Mapping[str, Tensor],
        sets: Mapping[str, Tensor],
        documents: Tensor | None = None,
    ) -> LayerFits:
        return fit_layer(
            at["train"],
            sets["train"],
            at["validation"],
            sets["validation"],
            self.documents["validation"] if documents is None else documents,
            n_classes=self.classes,
            strengths=self.asked.strengths,
            cap=self.asked.pos_weight_cap,
            seed=self.asked.seed,
        )

    def _of_sets(self, site: Site, even: Tensor) -> None:
        """Rows of the label sets after the true one."""
        for place, (name, keep) in enumerate(self.seen.items()):
            rows = slice(1 + place * DRAWS, 1 + (place + 1) * DRAWS)
            score = self._judge(even[rows], self.sets["test"][rows], keep)
            task = self._judge(even[0], keep=keep) if name == "token_type" else None
            self._control(name, site, score, task)

    def _probe(self, site: Site, model: Model, fits: LayerFits) -> Probe:
        """The probe of the true labels, with all a reader needs."""
        strength = float(fits.strength[0])
        about = about_of(
            self.data,
            model,
            site,
            self.asked.method,
            trained_prior=tuple(fits.trained_prior[0].tolist()),
            strength=None if math.isnan(strength) else strength,
        )
        return Probe(about, fits.weight[0].float(), fits.bias[0].float(), fits.mean, fits.scale)

    # -- without a layer -------------------------------------------------------------------

    def current_token(self) -> None:
        """What the token that is read says by itself."""
        types = {part: one.token() for part, one in self.examples.items()}
        even = control.current_token(
            types["train"], self.label["train"], types["test"], self.classes
        )
        self._control("current_token", None, self._judge(even))

    def model(self, train: Tensor, test: Tensor) -> None:
        """The model's own probability of the target as a classifier."""
        even, natural = control.model_reference(train, self.label["train"], test)
        score = judge(even, natural, self.label["test"], self.groups, seed=self.asked.seed)
        self._control("model", None, score)

    # -- rows ------------------------------------------------------------------------------

    def _natural(self, even: Tensor) -> Tensor:
        return (even + self.prior.to(even.dtype).log()).log_softmax(-1)

    def _judge(
        self, even: Tensor, label: Tensor | None = None, keep: Tensor | None = None
    ) -> Judgement:
        label = self.label["test"] if label is None else label
        return judge(
            even,
            self._natural(even),
            label,
            self.groups,
            keep=keep,
            seed=self.asked.seed,
        )

    def _record(
        self,
        site: Site,
        probe: Probe,
        at: Mapping[str, Tensor],
        fits: LayerFits | None,
        seconds: float,
    ) -> None:
        """The row of a layer, its reliability and confusion, and the probe with its scores."""
        even, natural = probe.even(at["test"]), probe.natural(at["test"])
        label, groups = self.label["test"], self.groups
        score = judge(even, natural, label, groups, seed=self.asked.seed)
        row = score.rows()[0]
        held_out = float(fits.crossfit[0]) if fits else self._accuracy(probe, at, "validation")
        self.found.layers.append(
            {
                "step": 0,
                "site": str(site),
                "layer": site.layer,
                "method": probe.about.method,
                "strength": probe.about.strength,
                "n_test": len(label),
                **{name: row[name] for name in SCORES},
                "validation_balanced_accuracy": held_out,
                "train_balanced_accuracy": self._accuracy(probe, at, "train"),
                "seconds": seconds,
            }
        )
        where = {"step": 0, "site": str(site)}
        self.found.reliability += [
            where | one for one in reliability(natural, label, groups, seed=self.asked.seed)
        ]
        self.found.confusion += [where | one for one in confusion_rows(score, self.data.classes)]
        scores = {name: row[name] for name in SCORES} | {"n_test": len(label)}
        self.found.probes.append(replace(probe, about=replace(probe.about, scores=scores)))
        if only := one_sided(score, self.data.classes)[0]:
            self.found.failures.append(f"{site}: {only}")
        elif near := reward_hacking(score, self.data.classes)[0]:
            self.found.warnings.append(f"{site}: {near}")

    def _accuracy(self, probe: Probe, at: Mapping[str, Tensor], part: str) -> float:
        """Balanced accuracy over a part."""
        label, decided = self.label[part], probe.even(at[part]).argmax(-1)
        right = (decided == label).double()
        recalls = [right[label == one].mean() for one in range(self.classes)]
        return float(torch.stack(recalls).nanmean())

    def _control(
        self, name: str, site: Site | None, score: Judgement, task: Judgement | None = None
    ) -> None:
        """The row of a control, the mean over its draws, its interval that of one draw; `task`: the true
        labels on the same examples."""
        values = {
            one: float(getattr(score, one).mean()) for one in ("balanced_accuracy", "low", "high")
        }
        selectivity = None
        if task is not None:
            selectivity = float(task.balanced_accuracy) - values["balanced_accuracy"]
        self.found.controls.append(
            {
                "step": 0,
                "site": None if site is None else str(site),
                "layer": None if site is None else site.layer,
                "control": name,
                **values,
                "selectivity": selectivity,
                "n_test": int(score.n.flatten()[0]),
            }
        )


def about_of(
    data: ProbeData,
    model: Model,
    site: Site,
    method: str,
    *,
    trained_prior: Sequence[float],
    strength: float | None = None,
) -> ProbeAbout:
    """What a probe of these data carries, without scores."""
    return ProbeAbout(
        reference=model.reference,
        site=str(site),
        method=method,
        task=data.task,
        classes=data.classes,
        prior=data.prevalence,
        trained_prior=tuple(trained_prior),
        target=data.target,
        target_id=data.target_id,
        read="token" if data.of_tokens else "mean",
        dtype=str(model.dtype).removeprefix("torch."),
        strength=strength,
        context_length=data.context_length,
        data={"name": data.name, "sha256": data.fingerprint or data.sha256()},
    )
