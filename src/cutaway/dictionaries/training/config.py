"""Settings of a dictionary's training, under the names its users know (`d_hidden`, `epochs`, ...)."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from cutaway.base.errors import UserError
from cutaway.dictionaries.synthetic.config import SyntheticFields
from cutaway.dictionaries.training.orthogonality_fields import OrthogonalityFields
from cutaway.studies.settings import WEIGHTS, StudyConfig
from cutaway.studies.steps import sized_steps
from cutaway.training.config import LoopConfig

if TYPE_CHECKING:
    from cutaway.base.hardware import Need

Architecture = Literal["jumprelu", "topk", "batch_topk", "gated", "relu", "matryoshka"]
FIXED_L0 = ("topk", "batch_topk", "matryoshka")  # those whose L0 is set, not found
# settings that only some architectures have a use for
_OF_SOME = {
    "threshold": ("jumprelu",),
    "bandwidth": ("jumprelu",),
    "sparsity": ("jumprelu",),
    "lambda_sparse": ("jumprelu", "gated", "relu"),
    "groups": ("matryoshka",),
}


class DictionaryConfig(SyntheticFields, OrthogonalityFields, StudyConfig):
    """A sparse dictionary of a model's hidden states, or of synthetic ones."""

    free: ClassVar[frozenset[str]] = StudyConfig.free | {
        *("activations", "name", "checkpoint_every", "keep_checkpoints", "target_recon_loss"),
    }
    settled: ClassVar[frozenset[str]] = StudyConfig.settled | {"break_even", "separator", "bos"}
    sections: ClassVar[tuple[str, ...]] = ("sae", "sae_training")

    name: str | None = Field(None, pattern=r"^[^/\\\x00]+$")
    """What the run is called; default the site's name."""
    activations: str | None = None
    """The store of hidden states (`cutaway extract`)."""
    layer: str | None = None
    """Site in the store: 6, embed, mlp.6, ...; may be left out where it has one."""
    streaming: bool = False
    """States straight from `model` over `data`, without a store."""
    model: str | None = None
    """Where streaming: a run, a folder in Hugging Face layout, a GGUF file, or a Hugging Face id."""
    data: str = "docstrings"
    """Where streaming: text, a source by name, a file or a folder."""
    tokens: int = Field(1_000_000, ge=1)
    """Where streaming or synthetic: tokens of an epoch."""
    context_length: int | None = Field(None, ge=2)
    """Where streaming: tokens in a context; default what the model reads, at most 1024."""
    bos: bool | None = None
    """Where streaming: special tokens around contexts; default the tokenizer's own (true: BOS, false:
    none)."""
    separator: Literal["auto", "bos", "eos", "both", "none"] = "auto"
    """Where streaming: what stands between packed documents; auto as in `cutaway extract`."""
    chat: bool = False
    """Where streaming: the data are conversations, read with the model's chat template."""
    reply_only: bool = False
    """Where chat: only the states of replies are learnt from."""
    skip_first: bool = True
    """Leave position 0, an attention sink, out of training and scores."""
    data_seed: int = Field(0, ge=0)
    """Seed of the order of states, or of what synthetic ones are."""

    architecture: Architecture = "jumprelu"
    """jumprelu, topk, batch_topk, gated, relu (with L1) or matryoshka."""
    d_model: int | None = Field(None, ge=1)
    """Width of the states; checked against the store's. Synthetic: 64, or 40 of a hierarchy."""
    d_hidden: int | None = Field(None, ge=2)
    """Features; default 16/3 of the width (4096 for 768), or as many as the true ones."""
    target_l0: float | None = Field(None, gt=0)
    """Features per token to aim at; default the middle of the target sparsities, else width / 12
    (synthetic: as many as are on) unless lambda_sparse is given."""
    lambda_sparse: float | None = Field(None, ge=0)
    """Price of a feature. Alone it stays as it is; beside a target it is where it starts."""
    threshold: float | None = Field(None, gt=0)
    """JumpReLU's thresholds at the start, scaled units; default such that L0 is near its target."""
    bandwidth: float | None = Field(None, gt=0)
    """Width of the band around a threshold it learns from, scaled units (JumpReLU)."""
    sparsity: Literal["step", "target", "tanh"] | None = None
    """Form of JumpReLU's penalty; none takes the one found best."""
    groups: list[int] | None = Field(None, min_length=1)
    """Nested widths (matryoshka); default d_hidden / 16, / 4 and whole."""
    kernels: Literal["auto", "sparse", "dense"] = "auto"
    """How products are worked; auto measures both at the start."""
    break_even: float | None = Field(None, ge=0, le=2)
    """Share of active features from which on products are dense, where kernels: auto; measured at
    the start where it is not given."""

    epochs: float = Field(20.0, gt=0)
    """Passes over the training states."""
    max_steps: int | None = Field(None, ge=1)
    """Steps, instead of epochs."""
    decay_steps: int | None = Field(None, ge=1)
    """Step at which the learning rate is lowest; default the last."""
    batch_size: int | None = Field(None, ge=1)
    """States per step; default 256 to 4096, such that there are 2,000 steps where possible."""
    learning_rate: float | None = Field(None, gt=0)
    """Highest learning rate; default 4e-4 at 4096 features, growing as 1/√d_hidden shrinks it."""
    warmup_share: float = Field(0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises; then it falls as a cosine to a tenth."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay on the encoder."""
    gradient_clip: float | None = Field(1.0, gt=0)
    """Gradient norm above which the gradient is scaled down; none never does."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Adam's decay of the gradient's mean."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Adam's decay of the gradient's square."""
    dead_after: int | None = Field(None, ge=1, le=2**62)
    """Tokens of silence after which a feature is dead and revived; default a hundredth of the
    training's, at most 1M or an epoch."""

    validation_fraction: float = Field(0.1, gt=0, le=0.5)
    """Share of the states kept for validation, cut at a document."""
    eval_tokens: int = Field(16_384, ge=1)
    """Held-out states an evaluation reads (the same ones each time)."""
    eval_every: int | None = Field(None, ge=1)
    """Steps between evaluations; default a twentieth of the steps."""
    log_every: int = Field(20, ge=1)
    """Steps between recorded rows."""
    checkpoint_every: int | None = Field(None, ge=1)
    """Steps between checkpoints; default a twentieth of the steps."""
    keep_checkpoints: int | None = Field(1, ge=1)
    """Newest checkpoints kept besides the best; none keeps all."""

    target_recon_loss: float | None = Field(None, gt=0)
    """Normalised MSE the verdict asks for."""
    target_sparsity_min: float | None = Field(None, gt=0)
    """Fewest features per token the verdict accepts."""
    target_sparsity_max: float | None = Field(None, gt=0)
    """Most features per token the verdict accepts."""

    @field_validator("layer", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("tokens", mode="before")
    @classmethod
    def _counted(cls, value: Any) -> Any:
        from cutaway.activations.config import count

        return count(value)

    @model_validator(mode="after")
    def _fits_together(self) -> DictionaryConfig:
        if self.truth is not None:  # which refuses what it cannot be
            for name in ("activations", "model", "streaming"):
                if value := getattr(self, name):
                    raise ValueError(
                        f"{name} = {value!r}: synthetic = {self.synthetic!r} is another source of "
                        "states; choose one"
                    )
        low, high = self.target_sparsity_min, self.target_sparsity_max
        if low is not None and high is not None and low > high:
            raise ValueError(f"target_sparsity_min = {low}: above target_sparsity_max = {high}")
        if self.reply_only and not self.chat:
            raise ValueError("reply_only: goes with chat, which says what a reply is")
        if self.chat and self.separator != "auto":
            raise ValueError(
                f"separator = {self.separator!r}: the chat template says what stands between "
                "conversations; leave it out"
            )
        if None not in (self.d_hidden, self.target_l0) and self.target_l0 >= self.d_hidden:
            raise ValueError(
                f"target_l0 = {self.target_l0:g}: must be below d_hidden = {self.d_hidden}"
            )
        if self.lambda_sparse == 0 and self.controlled:
            raise ValueError(
                "lambda_sparse = 0: a price is multiplied until L0 is at its target, and 0 stays 0; "
                "give one above 0, or none"
            )
        return self

    def anchored(self) -> DictionaryConfig:
        """The same with relative paths made absolute, so that it works from any folder."""
        path, column, rest = self.data.partition("::")
        changes: dict[str, str] = {}
        if os.path.exists(path):
            changes["data"] = os.path.abspath(path) + column + rest
        for name in ("activations", "model"):
            value = getattr(self, name)
            for place in (value, os.path.join("runs", value)) if value else ():
                if os.path.exists(place):
                    changes[name] = os.path.abspath(place)
                    break
        return self.model_copy(update=changes)

    def stack_key(self) -> str | None:
        names = (
            *("activations", "streaming", "model", "data", "tokens", "context_length"),
            *(
                "bos",
                "separator",
                "chat",
                "reply_only",
                "skip_first",
                "data_seed",
                "batch_size",
                "validation_fraction",
                "eval_tokens",
            ),
            *("epochs", "max_steps", "decay_steps", "eval_every", "log_every", "checkpoint_every"),
            *("keep_checkpoints", "device", "precision", "compile", "d_hidden", "seed"),
            *("threads", "halvings"),
        )
        truth = None if self.truth is None else self.truth.to_json()
        return json.dumps({**{name: getattr(self, name) for name in names}, "truth": truth})

    def faster_stacked(self) -> bool:
        return self.streaming  # then one pass over the model serves all

    def sized(self, width: int, rows: int) -> DictionaryConfig:
        """The same with every default that hangs on the states filled in.

        `width` d of the states, `rows` of the training part. Filling in twice changes nothing.
        Where only the price of a feature was given, `target_l0` stays none. Raises UserError for
        settings that do not fit this width.
        """
        if self.d_model not in (None, width):
            raise UserError(f"d_model = {self.d_model}: the states are {width} wide")
        truth = self.truth
        usual = round(16 * width / 3) if truth is None else truth.n_features
        d_hidden = self.d_hidden or max(2, usual)
        sizes = sized_steps(self, rows, smallest=256, largest=4096, fewest_steps=2000)
        steps, batch_size = sizes["max_steps"], sizes["batch_size"]
        target = self.target_l0 or self._middle()
        if target is None and self.controlled:
            target = self._usual_l0(width, d_hidden)
        if target is not None and target >= d_hidden:
            raise UserError(f"target_l0 = {target:g}: must be below d_hidden = {d_hidden}")
        if self.groups is not None and not (min(self.groups) >= 1 and max(self.groups) == d_hidden):
            raise UserError(
                f"groups = {self.groups}: expected widths from 1 to d_hidden = {d_hidden}, ending "
                "there"
            )
        if self.orthogonality is not None:
            self.pairs_wanted(d_hidden)
        return self.model_copy(
            update={
                "d_model": width,
                "d_hidden": d_hidden,
                "target_l0": target,
                **sizes,
                "learning_rate": self.learning_rate or 4e-4 * (4096 / d_hidden) ** 0.5,
                "dead_after": self.dead_after or _dead_after(rows, steps * batch_size),
            }
        )

    def _middle(self) -> float | None:
        """Of the target sparsities; where one is given, a tenth inside of it."""
        low, high = self.target_sparsity_min, self.target_sparsity_max
        if low is None or high is None:
            return low * 1.1 if low is not None else high and high * 0.9
        return (low + high) / 2

    @property
    def width(self) -> int | None:
        """Of the states, where that is known without them."""
        return self.d_model if self.truth is None else self.truth.width

    @property
    def controlled(self) -> bool:
        """Whether there is an L0 to aim at: unless only the price of a feature was given."""
        asked = self.target_l0 is not None or self._middle() is not None
        needed = self.architecture in FIXED_L0 or self.sparsity == "target"
        return asked or needed or self.lambda_sparse is None

    @property
    def start_l0(self) -> float:
        """Features per token a dictionary begins with, about; of a `sized` config."""
        return self.target_l0 or self._usual_l0(self.d_model, self.d_hidden)

    def _usual_l0(self, width: int, d_hidden: int) -> float:
        truth = self.truth
        return min(max(2.0, width / 12) if truth is None else truth.l0, d_hidden / 2)

    def ignored(self) -> list[str]:
        """A line where settings were given that this architecture has no use for."""
        void = [
            name
            for name, kinds in _OF_SOME.items()
            if getattr(self, name) is not None and self.architecture not in kinds
        ]
        lines = [f"{', '.join(void)}: without effect in {self.architecture}"] if void else []
        if self.break_even is not None and self.kernels != "auto":
            lines.append(
                f"break_even = {self.break_even:g}: without effect, as kernels = {self.kernels}"
            )
        reads = ("bos", "separator", "chat", "reply_only")
        usual = {name: type(self).model_fields[name].default for name in reads}
        idle = [name for name in reads if getattr(self, name) != usual[name]]
        if idle and not self.streaming:
            lines.append(f"{', '.join(idle)}: without effect, as states are read from a store")
        return lines

    def memory_needed(self, *, in_parts: bool = False) -> list[Need]:
        """Of a `sized` config; of another, as far as its states are made of known features."""
        from cutaway.base.hardware import Need

        truth, width = self.truth, self.width
        if width is None:
            return []
        features = self.d_hidden or (2 if truth is None else truth.n_features)
        rows = 1 if in_parts else self.batch_size or 1
        needs = [
            Need(32 * width * features, WEIGHTS, self.unusual("d_hidden", "d_model")),
            Need(
                4 * rows * (features + 2 * width),
                "what a step keeps of its batch",
                self.unusual("batch_size", "d_hidden"),
            ),
        ]
        if truth is not None:
            needs += [
                Need(
                    4 * width * truth.n_features,
                    "the true features",
                    self.unusual("true_features", "parents", "children", "d_model"),
                    host=True,
                ),
                Need(
                    4 * (self.eval_tokens + (self.batch_size or 1)) * width,
                    "states of a batch and of the evaluation",
                    self.unusual("eval_tokens", "batch_size", "d_model"),
                    host=True,
                ),
            ]
        return needs

    def loop(self) -> LoopConfig:
        """Of a config that `sized` has filled in; of another, for a million states of width 768."""
        if None in (self.max_steps, self.learning_rate, self.eval_every, self.checkpoint_every):
            return self.sized(self.width or 768, 1_000_000).loop()
        steps = self.max_steps
        return LoopConfig(
            steps=steps,
            schedule_steps=self.decay_steps or steps,
            learning_rate=self.learning_rate,
            min_learning_rate=self.learning_rate / 10,
            warmup_steps=int(self.warmup_share * (self.decay_steps or steps)),
            weight_decay=self.weight_decay,
            beta1=self.beta1,
            beta2=self.beta2,
            gradient_clip=self.gradient_clip,
            eval_every=self.eval_every,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every,
            keep_checkpoints=self.keep_checkpoints,
            seed=self.seed,
            device=self.device,
            precision=self.precision,
            compile=self.compile,
            threads=self.thread_count(),
            halvings=self.halvings,
        )


def _dead_after(rows: int, tokens: int) -> int:
    """Short enough that what is revived still has time to learn, at most 1M or an epoch."""
    return max(1, min(1_000_000, rows, max(10_000, tokens // 100)))
