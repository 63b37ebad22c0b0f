"""Every layer's probe with its scores, and beside it what the controls score.

The model is read once for all layers. At each layer the true labels and those of the controls are
fitted in one solve; everything is scored on test examples, whose documents nothing has seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.base.progress import progress
from cutaway.base.seeds import stream
from cutaway.nets.model import Model
from cutaway.nets.sites import Site
from cutaway.nets.untrained import untrained
from cutaway.probes.data.examples import PARTS, Examples
from cutaway.probes.data.request import SOLVED, STRENGTHS, Asked, usable_controls
from cutaway.probes.fitting import controls as control
from cutaway.probes.fitting.methods import LayerFits, fit_layer, fit_mass_mean
from cutaway.probes.scores.evaluation import (
    Judgement,
    confusion_rows,
    drawn_groups,
    judge,
    one_sided,
    reliability,
    reward_hacking,
)
from cutaway.probes.scores.findings import SCORES, Findings
from cutaway.probes.states.collecting import States
from cutaway.probes.states.inputs import (
    Inputs,
    about_of,
    label_sets,
    require_classes,
    require_varied,
)
from cutaway.probes.states.probe import Probe
from cutaway.stats import ties

DRAWS = 3  # random labellings of each kind of control
_NO_CONTROL = "{}: left out: {}"


def probe_layers(
    inputs: Inputs,
    asked: Asked,
    *,
    given: Sequence[Probe] | None = None,
    folder: Path | None = None,
) -> Findings:
    """Fit and judge a probe at every site; with `given` probes (one per site) these are judged.

    `folder` is where states that do not fit the memory are kept meanwhile. A control that cannot be
    worked is left out, which is said. Raises UserError where nothing can be told apart. What fails
    later is in the findings' `failures`.
    """
    data, found = inputs.data, Findings()
    if given is None and asked.method not in SOLVED:
        raise UserError(
            f"method = {asked.method!r}: expected {' or '.join(SOLVED)}; others are trained by steps, "
            "with `cutaway probe train`"
        )
    wanted = usable_controls(asked.controls, data, inputs.model, asked.method)
    own = "model" in wanted
    parts = _read(inputs, folder, own=own)
    require_varied(parts["train"][0])
    examples = {part: one for part, (_, one) in parts.items()}
    require_classes(replace(data, parts=examples))  # what states that are not finite have left
    judged = _Judging(inputs, asked, examples, wanted, found)
    with progress("fitting", len(inputs.sites), "layers") as bar:
        for index, site in enumerate(inputs.sites):
            at = {part: states.values[index] for part, (states, _) in parts.items()}
            judged.layer(site, at, inputs.model, given[index] if given else None)
            bar.update(index + 1)
    odds = {part: states.own for part, (states, _) in parts.items()}
    parts.clear()  # before the untrained model's states come
    works: dict[str, Callable[[], None]] = {
        "current_token": judged.current_token,
        "model": lambda: judged.model(odds["train"], odds["test"]),
        "untrained": lambda: _untrained(inputs, judged, folder),
    }
    for name, work in works.items():
        if name not in wanted:
            continue
        try:
            work()
        except UserError as error:  # the layers stand without it
            found.warnings.append(_NO_CONTROL.format(name, error))
    return found


def _read(
    inputs: Inputs, folder: Path | None, *, own: bool = False, model: Model | None = None
) -> dict[str, tuple[States, Examples]]:
    """States and examples of each part, together within the memory they may take."""
    parts: dict[str, tuple[States, Examples]] = {}
    held = 0
    for part in PARTS:
        odds = own and part != "validation"
        parts[part] = inputs.states(part, own=odds, model=model, folder=folder, held=held)
        held += parts[part][0].values.nbytes
    return parts


def _untrained(inputs: Inputs, judged: _Judging, folder: Path | None) -> None:
    """The true labels on the states of the same architecture with random weights."""
    fresh = untrained(inputs.model, inputs.model.reference.id, judged.asked.seed)
    parts = _read(inputs, folder, model=fresh)
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
        inputs: Inputs,
        asked: Asked,
        examples: Mapping[str, Examples],
        wanted: Sequence[str],
        found: Findings,
    ):
        self.data, self.reading = inputs.data, inputs.reading
        self.asked, self.examples, self.found = asked, examples, found
        self.classes = len(self.data.classes)
        self.prior = torch.tensor(self.data.prevalence).float()
        self.label = {part: one.label for part, one in examples.items()}
        self.documents = {part: one.document for part, one in examples.items()}
        self.groups, self.whole = drawn_groups(self.documents["test"])
        if not self.whole:
            self.found.warnings.append(
                f"test has {len(self.documents['test'].unique())} documents: intervals are over "
                "stretches of their text, and do not speak for other documents"
            )
        self.sets, self.seen = self._sets(wanted)
        self.with_means = "mass_mean" in wanted

    # -- one layer -------------------------------------------------------------------------

    def layer(
        self, site: Site, at: Mapping[str, Tensor], model: Model, given: Probe | None
    ) -> None:
        """The probe of a site, and the controls that are fitted there."""
        method = given.about.method if given else self.asked.method
        fits = None
        if method == "exact":
            fits = self._fits(at, self.sets, self.seen)
            self._tell_edge(site, fits)
        elif method == "mass_mean":
            fits = fit_mass_mean(at["train"], self.sets["train"], self.classes)
        if given is None:
            given = self._probe(site, model, fits)
        self._record(site, given, at, fits if method == "exact" else None)
        if fits is not None:
            self._of_sets(site, fits.even(at["test"]))
        if self.with_means:
            means = fit_mass_mean(at["train"], self.label["train"][None], self.classes)
            self._control("mass_mean", site, self._judge(means.even(at["test"])[0]))

    def untrained(
        self, site: Site, at: Mapping[str, Tensor], examples: Mapping[str, Examples]
    ) -> None:
        """The true labels on the states of a model that learnt nothing."""
        sets = {part: one.label[None] for part, one in examples.items()}
        fits = self._fits(at, sets, {}, examples["validation"].document)
        even, test = fits.even(at["test"])[0], examples["test"]
        groups = drawn_groups(test.document)[0]
        score = judge(even, self._natural(even), test.label, groups, seed=self.asked.seed)
        self._control("untrained", site, score)

    def _sets(
        self, wanted: Sequence[str]
    ) -> tuple[dict[str, Tensor], dict[str, Mapping[str, Tensor]]]:
        """Label sets (P, n) of each part: the true ones, then DRAWS of each control of labels in the
        order of `seen`, which says of which examples (n,) of each part these are."""
        sets = {part: [label] for part, label in self.label.items()}
        seen: dict[str, Mapping[str, Tensor]] = {}
        if "shuffled" in wanted:
            seen["shuffled"] = {
                part: torch.ones_like(label, dtype=torch.bool) for part, label in self.label.items()
            }
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
            except UserError as error:  # one token type, say: the others stand without it
                self.found.warnings.append(_NO_CONTROL.format("token_type", error))
            else:
                seen["token_type"] = known
                for part, every in sets.items():
                    every.append(labels[part])
        return {part: label_sets(*every) for part, every in sets.items()}, seen

    def _fits(
        self,
        at: Mapping[str, Tensor],
        sets: Mapping[str, Tensor],
        seen: Mapping[str, Mapping[str, Tensor]],
        documents: Tensor | None = None,
    ) -> LayerFits:
        keep = torch.ones_like(sets["validation"], dtype=torch.bool)
        for place, known in enumerate(seen.values()):
            keep[1 + place * DRAWS : 1 + (place + 1) * DRAWS] = known["validation"]
        return fit_layer(
            at["train"],
            sets["train"],
            at["validation"],
            sets["validation"],
            self.documents["validation"] if documents is None else documents,
            n_classes=self.classes,
            strengths=self.asked.strengths,
            extend=tuple(self.asked.strengths) == STRENGTHS,
            keep=keep,
            cap=self.asked.pos_weight_cap,
            seed=self.asked.seed,
        )

    def _tell_edge(self, site: Site, fits: LayerFits) -> None:
        """Where the best of the strengths that were asked for is the first or last of them."""
        asked = self.asked.strengths
        if bool(fits.at_edge[0]) and tuple(asked) != STRENGTHS and len(asked) > 1:
            self.found.warnings.append(
                f"{site}: the best of the strengths is {float(fits.strength[0]):g}, at the end of those "
                "tried: try more (--strengths)"
            )

    def _of_sets(self, site: Site, even: Tensor) -> None:
        """Rows of the label sets after the true one."""
        chance = 1 / self.classes
        for place, (name, known) in enumerate(self.seen.items()):
            rows = slice(1 + place * DRAWS, 1 + (place + 1) * DRAWS)
            keep = known["test"]
            score = self._judge(even[rows], self.sets["test"][rows], keep)
            task = self._judge(even[0], keep=keep) if name == "token_type" else None
            row = self._control(name, site, score, task)
            if name == "shuffled" and not row["low"] <= chance <= row["high"]:
                self.found.warnings.append(
                    f"{site}: shuffled labels score {row['balanced_accuracy']:.3f} ({row['low']:.3f} to "
                    f"{row['high']:.3f}), off chance: is something of the labels in the states?"
                )

    def _probe(self, site: Site, model: Model, fits: LayerFits) -> Probe:
        """The probe of the true labels, with all a reader needs."""
        strength = float(fits.strength[0])
        about = about_of(
            self.data,
            model,
            site,
            self.asked.method,
            reading=self.reading,
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
        known, there = train.isfinite(), test.isfinite()
        even, natural = control.model_reference(
            train[known], self.label["train"][known], test[there]
        )
        label, groups = self.label["test"][there], self.groups[there]
        score = judge(even, natural, label, groups, seed=self.asked.seed)
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
                "n_documents": len(self.documents["test"].unique()),
                "interval_over": "documents" if self.whole else "stretches",
                **{name: row[name] for name in SCORES},
                "validation_balanced_accuracy": held_out,
                "train_balanced_accuracy": self._accuracy(probe, at, "train"),
            }
        )
        where = {"step": 0, "site": str(site)}
        self.found.reliability += [
            where | one for one in reliability(natural, label, groups, seed=self.asked.seed)
        ]
        self.found.confusion += [where | one for one in confusion_rows(score, self.data.classes)]
        scores = {name: row[name] for name in SCORES}
        scores |= {"n_test": len(label), "validation_balanced_accuracy": held_out}
        self.found.probes.append(replace(probe, about=replace(probe.about, scores=scores)))
        if only := one_sided(score, self.data.classes)[0]:
            self.found.failures.append(f"{site}: {only}")
        elif near := reward_hacking(score, self.data.classes)[0]:
            self.found.warnings.append(f"{site}: {near}")

    def _accuracy(self, probe: Probe, at: Mapping[str, Tensor], part: str) -> float:
        """Balanced accuracy over a part."""
        label, decided = self.label[part], ties.decided(probe.even(at[part]))
        right = (decided == label).double()
        recalls = [right[label == one].mean() for one in range(self.classes)]
        return float(torch.stack(recalls).nanmean())

    def _control(
        self, name: str, site: Site | None, score: Judgement, task: Judgement | None = None
    ) -> dict[str, Any]:
        """The row of a control, the mean over its draws, its interval that of one draw; `task`: the true
        labels on the same examples."""
        values = {
            one: float(getattr(score, one).mean()) for one in ("balanced_accuracy", "low", "high")
        }
        selectivity = None
        if task is not None:
            selectivity = float(task.balanced_accuracy) - values["balanced_accuracy"]
        row = {
            "step": 0,
            "site": None if site is None else str(site),
            "layer": None if site is None else site.layer,
            "control": name,
            **values,
            "selectivity": selectivity,
            "n_test": int(score.n.flatten()[0]),
        }
        self.found.controls.append(row)
        return row
