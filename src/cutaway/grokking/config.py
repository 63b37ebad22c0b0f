"""Settings of a grokking run, under the names its users know (`p`, `train_frac`, `epochs`, ...)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from cutaway.base.files import is_folder_name
from cutaway.studies.settings import WEIGHTS, StudyConfig
from cutaway.training.config import LoopConfig

if TYPE_CHECKING:
    from cutaway.base.hardware import Need

Operation = Literal["add", "subtract", "multiply", "divide"]
MOST_P = 1000  # beyond it the p² pairs with p logits each no longer fit a laptop


class GrokkingConfig(StudyConfig):
    """A network that learns modular arithmetic from a share of all pairs, full batch."""

    free: ClassVar[frozenset[str]] = StudyConfig.free | {
        *("name", "checkpoint_every", "keep_checkpoints"),
    }

    name: str | None = None
    """What the run is called; default the preset's or file's name."""
    p: int = Field(113, ge=3, le=MOST_P)
    """Modulus; residues are 0 to p - 1. A prime, where the operation is divide."""
    operation: Operation = "add"
    """What is computed modulo p: add, subtract, multiply or divide."""
    train_frac: float = Field(0.3, gt=0, lt=1)
    """Share of all pairs that is trained on; the others are the test set."""
    data_seed: int = Field(0, ge=0)
    """Seed of the split into training and test pairs."""

    model_type: Literal["baseline", "routed", "transformer"] = "transformer"
    """baseline: an MLP; routed: an MLP with gates over parallel heads; transformer: [a, op, b, =]."""
    hidden_dim: int = Field(128, ge=1)
    """Width: of the MLP's layers, of the transformer's stream."""
    n_layers: int = Field(2, ge=1)
    """Hidden layers or transformer blocks."""
    n_heads: int = Field(4, ge=1)
    """Attention heads (must divide hidden_dim) or heads a gate chooses between."""
    gate_dim: int = Field(32, ge=1)
    """Width of a gate's inner state (routed only)."""
    activation: Literal["gelu", "relu"] = "gelu"
    """Activation of the MLPs."""
    tie_embeddings: bool = False
    """The transformer's output layer is its input embedding (first p rows)."""

    epochs: int = Field(10_000, ge=1)
    """Training steps; each sees all training pairs."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate, constant after the warm-up."""
    warmup_epochs: int = Field(0, ge=0)
    """Steps of linear warm-up from 0 to lr."""
    weight_decay: float = Field(1.0, ge=0)
    """Decoupled weight decay on weight matrices; biases, norms and gates are exempt."""
    decay_embeddings: bool = False
    """Let weight decay fall on the transformer's embeddings too."""
    optimizer: Literal["adamw", "orthograd_adamw"] = "adamw"
    """adamw, or ⟂AdamW: each gradient made orthogonal to its weight first (Prieto et al. 2025)."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Adam's decay of the gradient's mean."""
    beta2: float = Field(0.98, ge=0, lt=1)
    """Adam's decay of the gradient's square."""
    eps: float = Field(1e-8, gt=0)
    """Adam's floor under the root."""
    grad_clip: float | None = Field(1.0, gt=0)
    """Gradient norm above which the gradient is scaled down; none never does."""
    grokfast_lambda: float = Field(0.0, ge=0)
    """Grokfast (Lee et al. 2024): weight of the slow gradient that is added; 0 is off, 2 usual."""
    grokfast_alpha: float = Field(0.98, ge=0, lt=1)
    """Grokfast: decay of the running mean that is the slow gradient."""
    loss_function: Literal["cross_entropy", "stablemax"] = "cross_entropy"
    """cross_entropy of a softmax, or of stablemax (Prieto et al. 2025)."""
    softmax_precision: Literal["float64", "float32"] = "float64"
    """Precision of the softmax; float32 rounds the loss of memorised pairs to zero."""

    routing_regularizer: Literal["entropy", "sparsity", "gini", "consistency"] | None = None
    """Penalty on the gates' weights (ignored where model_type is not routed); none for none."""
    lambda_routing: float = Field(0.01, ge=0)
    """Weight of the routing penalty."""
    lambda_spectral: float = Field(0.0, ge=0)
    """Weight of 1 - spectral smoothness of the output table."""
    lambda_jacobian: float = Field(0.0, ge=0)
    """Weight of the mean squared Jacobian norm of the logits by the input."""

    compute_weight_curvature: bool = True
    """Measure the loss's Hessian trace and the Fisher trace."""
    weight_curvature_interval: int = Field(100, ge=1)
    """Steps between measurements of curvature; together about a tenth of the training time."""
    compute_optimizer_metrics: bool = True
    """Measure Adam's effective rates and ratios at every logged step."""
    compute_sensitivity: bool = True
    """Measure the input Jacobian and Hessian, representations and spectra at every logged step."""
    log_every: int = Field(100, ge=1)
    """Steps between recorded rows, each with the test accuracy."""
    checkpoint_every: int | None = Field(None, ge=1)
    """Steps between checkpoints; default a twentieth of epochs."""
    keep_checkpoints: int | None = Field(None, ge=1)
    """Newest checkpoints kept; none keeps all, which progress measures are computed over."""
    save_routing_every: int | None = Field(None, ge=1)
    """Steps between snapshots of the routing over all pairs; default a twentieth of epochs."""

    precision: Literal["auto", "float32", "float64", "bfloat16"] = "auto"
    """Of weights and matrix products; auto is float32."""

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str | None) -> str | None:
        if name is not None and not is_folder_name(name):
            raise ValueError(f"name = {name!r}: expected a folder's name")
        return name

    @model_validator(mode="after")
    def _fits_together(self) -> GrokkingConfig:
        if self.operation == "divide" and not _prime(self.p):
            raise ValueError(f"p = {self.p}: must be a prime to divide by")
        if self.model_type == "transformer" and self.hidden_dim % self.n_heads:
            raise ValueError(
                f"n_heads = {self.n_heads}: must divide hidden_dim = {self.hidden_dim} "
                "of a transformer"
            )
        if self.tie_embeddings and self.model_type != "transformer":
            raise ValueError(
                f"tie_embeddings = true: of a transformer only; model_type is {self.model_type}"
            )
        pairs = self.pairs
        if not 0 < round(self.train_frac * pairs) < pairs:
            raise ValueError(
                f"train_frac = {self.train_frac}: leaves no pairs to train on or to test "
                f"of the {pairs} there are"
            )
        return self

    @property
    def pairs(self) -> int:
        """How many pairs there are: p², without b = 0 where b divides."""
        return self.p * (self.p - (self.operation == "divide"))

    @property
    def penalises_routing(self) -> bool:
        """Whether there are gates, and a penalty on them."""
        return self.model_type == "routed" and self.routing_regularizer is not None

    def ignored(self) -> list[str]:
        """One line on settings that this network has no use for; empty where it uses all.

        They are no mistake: a file may hold them for the day when its `model_type` is routed.
        """
        if self.model_type == "routed":
            return []
        usual = type(self).model_fields["lambda_routing"].default
        given = []
        if self.routing_regularizer is not None:
            given.append(f"routing_regularizer = {self.routing_regularizer!r}")
        if self.lambda_routing not in (0, usual) or (given and self.lambda_routing):
            given.append(f"lambda_routing = {self.lambda_routing:g}")
        if not given:
            return []
        return [
            f"{' and '.join(given)}: ignored, of a routed network only; "
            f"model_type is {self.model_type}"
        ]

    @property
    def routing_every(self) -> int:
        """Steps between routing snapshots."""
        return self.save_routing_every or max(1, self.epochs // 20)

    def architecture(self) -> dict[str, Any]:
        """What `nets.build` needs to make this network."""
        shape = {"p": self.p, "hidden_dim": self.hidden_dim, "n_layers": self.n_layers}
        if self.model_type == "transformer":
            own = {"n_heads": self.n_heads, "tie_embeddings": self.tie_embeddings}
            return {"name": "modular_transformer", **shape, **own}
        shape["activation"] = self.activation
        if self.model_type == "routed":
            own = {"n_heads": self.n_heads, "gate_dim": self.gate_dim}
            return {"name": "modular_routed", **shape, **own}
        return {"name": "modular_mlp", **shape}

    def memory_needed(self, *, in_parts: bool = False) -> list[Need]:
        from cutaway.base.hardware import Need
        from cutaway.nets.parameters import parameters_of

        parameters = sum(parameters_of(self.architecture()).values())
        shape = ("hidden_dim", "n_layers", "p")
        if self.model_type == "routed":
            shape = (*shape, "n_heads", "gate_dim")
        size = {"float64": 8, "bfloat16": 2}.get(self.precision, 4)
        pairs = 1 if in_parts else round(self.train_frac * self.pairs)
        each = {"transformer": 4 * 6, "routed": self.n_heads}.get(self.model_type, 1)
        states = size * pairs * each * self.hidden_dim * self.n_layers
        return [
            Need(4 * size * parameters, WEIGHTS, self.unusual(*shape)),
            Need(states, "what a step keeps of its pairs", self.unusual(*shape)),
        ]

    def loop(self) -> LoopConfig:
        return LoopConfig(
            steps=self.epochs,
            schedule_steps=self.warmup_epochs,
            learning_rate=self.lr,
            min_learning_rate=self.lr,  # constant: the floor is the rate itself
            warmup_steps=self.warmup_epochs,
            weight_decay=self.weight_decay,
            beta1=self.beta1,
            beta2=self.beta2,
            epsilon=self.eps,
            gradient_clip=self.grad_clip,
            eval_every=self.log_every,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every or max(1, self.epochs // 20),
            keep_checkpoints=self.keep_checkpoints,
            seed=self.seed,
            device=self.device,
            # matrix products in bfloat16 blur what is measured here, so auto does not choose them
            precision="float32" if self.precision == "auto" else self.precision,
            compile=self.compile,
            threads=self.thread_count(),
            halvings=self.halvings,
        )

    def thread_count(self) -> int | None:
        return self.threads or (1 if self._work() < _TINY_WORK else None)

    def stack_key(self) -> str | None:
        if self.lambda_jacobian or self.precision == "bfloat16" or self.compile:
            return None  # the Jacobian's probes come from one stream; the others are untried
        shared = {k: v for k, v in self.model_dump(mode="json").items() if k not in _OWN}
        # what they come to, which where they are not given depends on epochs
        shared["checkpoint_every"] = self.loop().checkpoint_every
        shared["save_routing_every"] = self.routing_every if self.model_type == "routed" else None
        shared["decays"] = self.weight_decay > 0  # where nothing decays a column is missing
        return json.dumps(shared, sort_keys=True)

    def faster_stacked(self) -> bool:
        """On a GPU always; on a CPU where a step is so small that calling it is most of it."""
        from cutaway.base import hardware

        if hardware.device(self.device).type != "cpu":
            return True
        return self._work() < _SMALL_WORK

    def _work(self) -> float:
        """Multiplications of the hidden layers in one forward pass over the training pairs."""
        layers = self.n_layers * (self.n_heads if self.model_type == "routed" else 1)
        each = 12 * layers if self.model_type == "transformer" else layers
        return self.train_frac * self.pairs * each * self.hidden_dim**2


# What members of a stack may have each for itself; everything else they share.
_OWN = {
    *("name", "seed", "data_seed", "epochs", "lr", "warmup_epochs", "weight_decay"),
    *("beta1", "beta2", "eps", "grad_clip"),
}
_SMALL_WORK = 20e6  # up to here a stack on a CPU was seen to be faster than run after run
_TINY_WORK = 10e6  # up to here a second thread gains nothing, and on a busy machine costs much


def _prime(number: int) -> bool:
    return number > 1 and all(number % factor for factor in range(2, int(number**0.5) + 1))
