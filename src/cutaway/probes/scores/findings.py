"""What probing found: rows of tables, a probe per layer, and what should be known of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cutaway.base.errors import UserError
from cutaway.nets.sites import Site, parse_site
from cutaway.probes.scores.evaluation import DECIDED
from cutaway.probes.states.probe import Probe
from cutaway.stats.ties import best

# Of two decisions: balanced accuracy with its interval, recall and specificity of the even one,
# accuracy, precision and f1 of the natural one; names in `DECIDED` say which.
SCORES = (
    *("balanced_accuracy", "low", "high", "recall", "specificity", "accuracy", "precision", "f1"),
    *("auroc", "average_precision", "brier", "expected_calibration_error", "log_loss"),
    *DECIDED,
)
DECISIONS = (
    "even: decided as if classes were equally frequent, natural: at their own shares; low and high are "
    "the 95 % interval of balanced_accuracy_even; auroc and average_precision need no decision"
)


def named(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the tables `layers` or `controls` with every score under a name that says its decision.

    Rows of older runs have the scores of one decision only; the others are missing in them.
    """
    older = {
        **{f"{name}_even": name for name in ("balanced_accuracy", "recall", "specificity")},
        **{f"{name}_natural": name for name in ("accuracy", "precision", "f1")},
    }
    held = {new: row[old] for new, old in older.items() if old in row}
    return {**row, **held}


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
        return self.probes[best(range(len(scores)), scores.__getitem__)]

    def verdict(self) -> str:
        """What the layer that is best on validation scores on test, and the controls that tell most
        about it; where it is no better than the current token alone, that."""
        best = next(row for row in self.layers if row["site"] == self.best.about.site)
        found = {
            row["control"]: row["balanced_accuracy"] for row in self.controls if not row["site"]
        }
        said = (
            f"{best['site']}, best on validation: {best['balanced_accuracy']:.1%} "
            f"({best['low']:.1%} to {best['high']:.1%}) balanced accuracy at even odds"
        )
        token, own = found.get("current_token"), found.get("model")
        if own is not None:
            said += f"; the model's own P(target): {own:.1%}"
        if token is not None:
            said += f"; the current token alone: {token:.1%}"
            if token >= best["low"]:
                said += ", within the probe's interval: no sign here that the state tells more"
        return said

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
