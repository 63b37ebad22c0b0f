"""Settings of synthetic states, part of a dictionary's config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from cutaway.dictionaries.synthetic.truth import Truth

# what each kind of truth has a use for
_OF_KIND = {
    "superposition": ("true_features", "active", "correlation"),
    "hierarchy": (
        *("parents", "children", "parent_rate", "child_rate"),
        *("parent_magnitude", "child_magnitude", "magnitude_spread"),
    ),
}
_WIDTH = {"superposition": 64, "hierarchy": 40}
# what only states of a model have
_OF_MODEL = ("layer", "data", "context_length", "skip_first", "validation_fraction")


class SyntheticFields(BaseModel):
    """Where states come from no model but from known features (`synthetic.truth`)."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    synthetic: Literal["superposition", "hierarchy"] | None = None
    """States made of known features: superposition, or hierarchy (parents with children)."""
    true_features: int = Field(256, ge=2)
    """Superposition: how many features there are."""
    active: int = Field(8, ge=1)
    """Superposition: features that are on in every state."""
    correlation: float = Field(0.0, ge=0, lt=1)
    """Superposition: how much features of a group of four come together."""
    parents: int = Field(12, ge=1)
    """Hierarchy: how many parents there are."""
    children: int = Field(3, ge=1)
    """Hierarchy: children of each parent."""
    parent_rate: float = Field(0.15, gt=0, le=1)
    """Hierarchy: share of states a parent is on in, at least 1 / parents."""
    child_rate: float = Field(0.6, gt=0, le=1)
    """Hierarchy: how often an on parent comes with one of its children."""
    parent_magnitude: float = Field(1.0, gt=0)
    """Hierarchy: mean amplitude of a parent."""
    child_magnitude: float = Field(1.0, gt=0)
    """Hierarchy: mean amplitude of a child."""
    magnitude_spread: float = Field(0.2, ge=0, lt=1)
    """Hierarchy: how far amplitudes lie from their mean at most, as a share of it."""
    truth_seed: int = Field(0, ge=0)
    """Synthetic states: seed of the true directions."""

    @property
    def truth(self) -> Truth | None:
        """What the states are made of; None where they are a model's. UserError for what cannot be."""
        from cutaway.dictionaries.synthetic.truth import Hierarchy, Superposition

        if self.synthetic is None:
            return None
        width = getattr(self, "d_model", None) or _WIDTH[self.synthetic]
        if self.synthetic == "superposition":
            return Superposition(
                self.true_features, width, self.active, self.correlation, self.truth_seed
            )
        settings = {name: getattr(self, name) for name in _OF_KIND["hierarchy"]}
        return Hierarchy(width=width, seed=self.truth_seed, **settings)

    def without_use(self) -> list[str]:
        """A line where settings were given that this source of states has no use for."""
        fields = type(self).model_fields
        others = [kind for kind in _OF_KIND if kind != self.synthetic]
        unused = [name for kind in others for name in _OF_KIND[kind]]
        unused += ["truth_seed"] if self.synthetic is None else _OF_MODEL
        void = [name for name in unused if getattr(self, name) != fields[name].default]
        what = "states of a model" if self.synthetic is None else f"synthetic = {self.synthetic}"
        return [f"{', '.join(void)}: without effect on {what}"] if void else []
