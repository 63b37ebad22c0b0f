"""Settings of probes, under the names their users know (`layers`, `batch_size`, `pos_weight_cap`)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from cutaway.base.errors import UserError, whole_in
from cutaway.studies.settings import StudyConfig
from cutaway.studies.steps import sized_steps
from cutaway.training.config import LoopConfig

Method = Literal["exact", "mass_mean", "minibatch", "mlp"]
TRAINED = ("minibatch", "mlp")  # methods that go through the loop; the others are solved at once


class ProbeConfig(StudyConfig):
    """Probes of a model's hidden states, one per layer."""

    free: ClassVar[frozenset[str]] = StudyConfig.free | {
        *("controls", "checkpoint_every", "keep_checkpoints"),
    }

    settled: ClassVar[frozenset[str]] = StudyConfig.settled | {"dtype", "bos"}

    model: str | None = None
    """A run, a folder in Hugging Face layout, a GGUF file, or a Hugging Face id."""
    data: str | None = None
    """The folder of probe data (`cutaway probe data`)."""
    layers: str = "auto"
    """auto (first, quartiles, last), all, or sites: 0,5,11, embed, mlp.6, ..."""
    bos: bool | None = None
    """Special tokens around every text; default the tokenizer's own (true: BOS, false: none)."""
    task: Literal["next", "current"] | None = None
    """What is asked of a state: the next token or its own; none takes the data's task."""
    method: Method = "exact"
    """exact (solved), mass_mean, minibatch or mlp (both trained by steps)."""
    strengths: list[float] = Field([1e-3, 1e-2, 1e-1, 1.0, 10.0], min_length=1)
    """Where exact: every C that is tried; validation chooses."""
    controls: str = "all"
    """all, none, or names with commas: shuffled, token_type, current_token, untrained, mass_mean,
    model."""
    step: str = "best"
    """Where the model is a run: its best checkpoint, its last, or a step that was kept."""
    dtype: str = "auto"
    """What the model computes in: auto, bfloat16 or float32."""
    forward_tokens: int | None = Field(None, ge=1)
    """Tokens the model reads at once; default 4096, fewer where memory runs out."""

    pos_weight_cap: float = Field(5.0, ge=1)
    """Most that an example of a rare class counts, against one of the most frequent class."""
    mlp_width: int = Field(128, ge=1)
    """Hidden units of a layer's probe (mlp)."""
    epochs: float = Field(10.0, gt=0)
    """Passes over the training examples."""
    max_steps: int | None = Field(None, ge=1)
    """Steps, instead of epochs."""
    decay_steps: int | None = Field(None, ge=1)
    """Step at which the learning rate is lowest; default the last."""
    batch_size: int | None = Field(None, ge=1)
    """Examples per step; default 64 to 1024, such that there are 1,000 steps where possible."""
    learning_rate: float = Field(1e-3, gt=0)
    """Learning rate at the start; it falls as a cosine to a hundredth."""
    weight_decay: float = Field(1e-4, ge=0)
    """Decoupled weight decay on the weights; biases are exempt."""
    eval_every: int | None = Field(None, ge=1)
    """Steps between evaluations; default a twentieth of the steps."""
    log_every: int = Field(20, ge=1)
    """Steps between recorded rows."""
    checkpoint_every: int | None = Field(None, ge=1)
    """Steps between checkpoints; default a twentieth of the steps."""
    keep_checkpoints: int | None = Field(1, ge=1)
    """Newest checkpoints kept besides the best; none keeps all."""

    @field_validator("layers", "controls", "step", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        if value is None:
            return "none"  # which the command line takes for the absence of a value
        if isinstance(value, list | tuple):
            return ",".join(map(str, value))
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("strengths", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return [value] if isinstance(value, int | float) else value

    @field_validator("strengths")
    @classmethod
    def _positive(cls, strengths: list[float]) -> list[float]:
        for one in strengths:
            if one <= 0:
                raise ValueError(f"strengths = {one:g}: C must be above 0")
        return list(dict.fromkeys(strengths))

    @field_validator("step")
    @classmethod
    def _names_a_checkpoint(cls, step: str) -> str:
        if step not in ("best", "last") and whole_in(step) is None:
            raise ValueError(f"step = {step!r}: expected best, last or a step's number")
        return step

    @property
    def trained(self) -> bool:
        """Whether these probes are trained by steps."""
        return self.method in TRAINED

    def require_named(self) -> None:
        """UserError where the model or the data are not named, which a preset cannot know."""
        if self.model is None:
            raise UserError("model: needed, a run, a folder in Hugging Face layout or a hub id")
        if self.data is None:
            raise UserError("data: needed, a folder that `cutaway probe data` made")

    def anchored(self) -> ProbeConfig:
        """The same with relative paths made absolute, so that it works from any folder."""
        changes: dict[str, str] = {}
        for name, places in (("model", ("", "runs")), ("data", ("",))):
            value = getattr(self, name)
            found = _first(os.path.join(place, value) for place in places) if value else None
            if found is not None:
                changes[name] = os.path.abspath(found)
        return self.model_copy(update=changes)

    def sized(self, rows: int) -> ProbeConfig:
        """The same with every default that hangs on the number of training examples filled in."""
        given = self.batch_size and min(self.batch_size, rows)
        capped = self.model_copy(update={"batch_size": given})
        sizes = sized_steps(capped, rows, smallest=64, largest=1024, fewest_steps=1000)
        return self.model_copy(update=sizes)

    def loop(self, layers: int = 1) -> LoopConfig:
        """Of a config that `sized` has filled in; of another, for ten thousand examples.

        The loss is the mean over the layers, whose gradients are so many times smaller than each
        alone would have: with ε as much smaller Adam's steps are those of each alone.
        """
        if None in (self.batch_size, self.max_steps, self.eval_every, self.checkpoint_every):
            return self.sized(10_000).loop(layers)
        return LoopConfig(
            steps=self.max_steps,
            schedule_steps=self.decay_steps or self.max_steps,
            learning_rate=self.learning_rate,
            min_learning_rate=self.learning_rate / 100,
            weight_decay=self.weight_decay,
            epsilon=1e-8 / layers,
            eval_every=self.eval_every,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every,
            keep_checkpoints=self.keep_checkpoints,
            seed=self.seed,
            device=self.device,
            # a step is a small product: bfloat16 gains nothing and costs digits of the weights
            precision="float32" if self.precision == "auto" else self.precision,
            compile=self.compile,
            threads=self.thread_count(),
            halvings=self.halvings,
        )


def _first(places: Iterable[str]) -> str | None:
    return next((place for place in places if os.path.exists(place)), None)
