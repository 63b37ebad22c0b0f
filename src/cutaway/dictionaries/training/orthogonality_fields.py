"""Settings of the orthogonality penalty, mixed into those of a dictionary."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cutaway.base.errors import UserError


class OrthogonalityFields(BaseModel):
    """Which pairs of features are pushed towards right angles, how hard, and from what cosine on."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    orthogonality: Literal["top_k", "random", "all_pairs"] | None = None
    """Penalty on cosines of decoder rows: of the pairs that fire together most (top_k), of as many
    drawn among those that fire together (random), or of all in chunks (all_pairs: OrtSAE)."""
    topk_fraction: float = Field(0.001, gt=0, le=1)
    """Share of all pairs of features that are selected (top_k, random)."""
    tau: float = Field(0.1, ge=0, le=1)
    """|cosine| up to which a selected pair costs nothing; where it starts if it is adaptive."""
    tau_adaptive: bool = False
    """Let tau follow mean + std of the selected pairs' |cosine|."""
    tau_memory: float = Field(0.9, ge=0, lt=1)
    """Share of an adaptive tau that it keeps from one step to the next."""
    tau_min: float = Field(0.0, ge=0, le=1)
    """Least an adaptive tau may be."""
    tau_max: float = Field(0.5, ge=0, le=1)
    """Most an adaptive tau may be."""
    orthogonality_weight: float = Field(1.0, ge=0)
    """Weight of the penalty in the loss, whose squared error is E‖x‖² = d at the start."""
    orthogonality_warmup: int = Field(0, ge=0)
    """Steps over which that weight rises from 0."""
    orthogonality_chunks: int = Field(8, ge=1)
    """Random chunks of features within which all pairs are compared (all_pairs)."""

    @model_validator(mode="after")
    def _tau_within_its_bounds(self) -> OrthogonalityFields:
        if self.tau_min > self.tau_max:
            raise ValueError(f"tau_min = {self.tau_min:g}: above tau_max = {self.tau_max:g}")
        if self.tau_adaptive and not self.tau_min <= self.tau <= self.tau_max:
            raise ValueError(
                f"tau = {self.tau:g}: expected tau_min = {self.tau_min:g} to tau_max = "
                f"{self.tau_max:g} where tau_adaptive"
            )
        return self

    def without_penalty(self) -> list[str]:
        """A line where settings of the penalty were given without the penalty."""
        fields = OrthogonalityFields.model_fields
        void = [name for name in fields if getattr(self, name) != fields[name].default]
        if self.orthogonality is not None or not void:
            return []
        return [f"{', '.join(void)}: without effect, as orthogonality = none"]

    def pairs_wanted(self, features: int) -> int:
        """How many of F features' F(F − 1)/2 pairs `topk_fraction` is.

        Raises UserError where that is none (a penalty on nothing would look like a penalty that
        does nothing), and where `orthogonality_chunks` leaves a feature alone in its chunk.
        """
        if self.orthogonality == "all_pairs":
            if 2 * self.orthogonality_chunks > features:
                raise UserError(
                    f"orthogonality_chunks = {self.orthogonality_chunks}: expected at most "
                    f"{features // 2}, two of the {features} features in each"
                )
            return features
        pairs = features * (features - 1) // 2
        wanted = round(self.topk_fraction * pairs)
        if wanted < 1:
            raise UserError(
                f"topk_fraction = {self.topk_fraction:g}: selects none of the {pairs} pairs of "
                f"{features} features; expected {1 / max(1, pairs):.2g} or more, or more features"
            )
        return wanted
