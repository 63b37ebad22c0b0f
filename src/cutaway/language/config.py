"""Settings of a language run, under the names nanoGPT's users know."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from cutaway.base.errors import UserError
from cutaway.studies.settings import WEIGHTS, StudyConfig
from cutaway.training.config import LoopConfig

if TYPE_CHECKING:
    from cutaway.base.hardware import Need

_LARGEST_WIDTH = 10_000_000

_NAMES = ("docstrings", "europarl", "wikipedia", "gutenberg", "truthfulqa", "train")


class LanguageConfig(StudyConfig):
    """A Backpack or GPT-2 language model on a text source."""

    # a preset's vocabulary is that of the tokenizer it trains, not of one the user brings
    displaces: ClassVar[Mapping[str, tuple[str, ...]]] = {"tokenizer": ("vocab_size",)}
    free: ClassVar[frozenset[str]] = StudyConfig.free | {
        *("data", "log_interval", "checkpoint_interval", "keep_checkpoints"),
        *("top_words", "log_points"),
    }

    model: Literal["backpack", "gpt2"] = "backpack"
    """Which network: a Backpack, or the GPT-2 baseline."""
    data: str = "docstrings"
    """Text: a source by name, a file or a folder (`cutaway corpus ls`)."""
    tokenizer: str = "train"
    """`train` a byte-level BPE on the data, or a pretrained one by id, folder or file."""
    vocab_size: int | None = Field(None, ge=257)
    """Tokens of a trained tokenizer, default 8192; of a pretrained one, what it has or more."""
    validation_fraction: float = Field(0.1, gt=0, le=0.5)
    """Share of the tokens kept for validation, by document."""

    block_size: int = Field(128, ge=2)
    """Context length in tokens."""
    n_layer: int = Field(2, ge=1)
    """Transformer blocks."""
    n_head: int = Field(2, ge=1)
    """Attention heads; must divide n_embd."""
    n_embd: int = Field(48, ge=1)
    """Width of the model."""
    n_senses: int = Field(4, ge=1)
    """Sense vectors per word (Backpack only); must divide n_embd."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of activations dropped in training."""
    bias: bool = True
    """Biases in linear maps and norms, as in GPT-2."""

    batch_size: int = Field(16, ge=1)
    """Windows per step and accumulation part."""
    gradient_accumulation_steps: int = Field(1, ge=1)
    """Parts a step's batch is worked through in; a step sees batch_size times this."""
    max_iters: int = Field(1000, ge=1)
    """Training steps."""
    eval_interval: int = Field(100, ge=1)
    """Steps between evaluations."""
    eval_iters: int = Field(20, ge=1)
    """Batches of held-out windows per evaluation (the same ones each time)."""
    log_interval: int = Field(10, ge=1)
    """Steps between recorded rows."""
    checkpoint_interval: int | None = Field(None, ge=1)
    """Steps between checkpoints; default eval_interval."""
    keep_checkpoints: int | None = Field(2, ge=1)
    """Newest checkpoints kept besides the best; none keeps all."""

    learning_rate: float = Field(1e-3, gt=0)
    """Highest learning rate, reached after the warm-up."""
    min_lr: float | None = Field(None, ge=0)
    """Lowest learning rate, at the end; default a tenth of the highest."""
    warmup_iters: int = Field(0, ge=0)
    """Steps of linear warm-up."""
    lr_decay_iters: int | None = Field(None, ge=1)
    """Step at which the learning rate is lowest; default max_iters."""
    weight_decay: float = Field(0.1, ge=0)
    """Decoupled weight decay, on matrices only."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Adam's decay of the gradient's mean."""
    beta2: float = Field(0.99, ge=0, lt=1)
    """Adam's decay of the gradient's square."""
    eps: float = Field(1e-8, gt=0)
    """Adam's floor under the root."""
    grad_clip: float | None = Field(1.0, gt=0)
    """Gradient norm above which the gradient is scaled down; none never does."""

    words_interval: int | None = Field(None, ge=1)
    """Steps between readings of the most used words (Backpack only); default eval_interval / 2."""
    top_words: int = Field(20, ge=1)
    """Words per reading in training_log.json; the run's table `words` keeps more."""
    log_points: int = Field(1000, ge=10)
    """Most points training_log.json may hold; longer logs are thinned there, never in the history."""

    @model_validator(mode="after")
    def _fits_together(self) -> LanguageConfig:
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_head = {self.n_head}: must divide n_embd = {self.n_embd}; {_divisors(self.n_embd)}"
            )
        if self.model == "backpack" and self.n_embd % self.n_senses:
            raise ValueError(
                f"n_senses = {self.n_senses}: must divide n_embd = {self.n_embd}; "
                f"{_divisors(self.n_embd)}"
            )
        if self.min_lr is not None and self.min_lr > self.learning_rate:
            raise ValueError(f"min_lr = {self.min_lr}: above learning_rate = {self.learning_rate}")
        if self.warmup_iters >= (self.lr_decay_iters or self.max_iters):
            raise ValueError(
                f"warmup_iters = {self.warmup_iters}: must end before step "
                f"{self.lr_decay_iters or self.max_iters}, where the learning rate is lowest"
            )
        if self.tokenizer == "train" and self.vocab_size is None:
            self.vocab_size = 8192
        return self

    @property
    def words_every(self) -> int:
        """Steps between readings of words: half the evaluation interval unless set."""
        return self.words_interval or max(1, self.eval_interval // 2)

    def vocabulary(self, tokens: int) -> int:
        """Rows of the embedding for a tokenizer of so many tokens.

        With a pretrained tokenizer vocab_size may ask for more rows (to round a size up).
        """
        if self.tokenizer == "train" or self.vocab_size is None:
            return tokens
        if tokens > self.vocab_size:
            raise UserError(
                f"vocab_size = {self.vocab_size}: tokenizer {self.tokenizer!r} has {tokens} tokens; "
                f"leave vocab_size out, or set it to {tokens} or more"
            )
        return self.vocab_size

    def anchored(self) -> LanguageConfig:
        """The same with relative paths made absolute, so that it works from any folder."""
        changes = {name: _absolute(getattr(self, name)) for name in ("data", "tokenizer")}
        return self.model_copy(update=changes)

    def architecture(self, vocab_size: int) -> dict[str, Any]:
        """What `nets.build` needs to make this network."""
        shape = {
            "name": self.model,
            "vocab_size": vocab_size,
            "block_size": self.block_size,
            "n_layer": self.n_layer,
            "n_head": self.n_head,
            "n_embd": self.n_embd,
            "dropout": self.dropout,
            "bias": self.bias,
        }
        return shape | ({"n_senses": self.n_senses} if self.model == "backpack" else {})

    def memory_needed(self, *, in_parts: bool = False) -> list[Need]:
        from cutaway.base.hardware import Need
        from cutaway.nets.parameters import parameters_of

        shape = ("n_embd", "n_layer", "block_size", "n_senses")
        parameters = sum(parameters_of(self.architecture(self.vocab_size or 257)).values())
        size = 4 if self.precision == "float32" else 2
        tokens = (1 if in_parts else self.batch_size) * self.block_size
        states = size * tokens * self.n_embd * 8 * self.n_layer
        if self.model == "backpack":
            states += size * tokens * self.block_size * self.n_senses
        batch = ("batch_size", "block_size", "n_embd", "n_layer")
        return [
            Need(16 * parameters, WEIGHTS, self.unusual("vocab_size", *shape)),
            Need(states, "what a step keeps of its batch", self.unusual(*batch)),
            Need(
                8 * self.batch_size * self.gradient_accumulation_steps,
                "the places of a step's windows",
                self.unusual("batch_size", "gradient_accumulation_steps"),
                host=True,
            ),
            Need(
                16 * self.batch_size * self.block_size,
                "the tokens of a batch",
                self.unusual("batch_size", "block_size"),
                host=True,
            ),
        ]

    def loop(self) -> LoopConfig:
        return LoopConfig(
            steps=self.max_iters,
            schedule_steps=self.lr_decay_iters or self.max_iters,
            learning_rate=self.learning_rate,
            min_learning_rate=self.learning_rate / 10 if self.min_lr is None else self.min_lr,
            warmup_steps=self.warmup_iters,
            weight_decay=self.weight_decay,
            beta1=self.beta1,
            beta2=self.beta2,
            epsilon=self.eps,
            gradient_clip=self.grad_clip,
            parts=self.gradient_accumulation_steps,
            eval_every=self.eval_interval,
            log_every=self.log_interval,
            checkpoint_every=self.checkpoint_interval or self.eval_interval,
            keep_checkpoints=self.keep_checkpoints,
            seed=self.seed,
            device=self.device,
            precision=self.precision,
            compile=self.compile,
            threads=self.thread_count(),
            halvings=self.halvings,
        )


def _absolute(text: str) -> str:
    """A path that exists, with its `::column` if it has one, made absolute; names stay names."""
    path, mark, column = text.partition("::")
    if not os.path.exists(path) or text.split(":")[0].split("@")[0] in _NAMES:
        return text
    return os.path.abspath(path) + mark + column


def divisors(number: int) -> list[int]:
    """Every number that divides this one, rising."""
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def _divisors(number: int) -> str:
    if number > _LARGEST_WIDTH:
        return f"n_embd is above the {_LARGEST_WIDTH:,} that any network here could have"
    return "accepted: " + ", ".join(map(str, divisors(number)))
