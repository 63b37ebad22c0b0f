"""YAML and `--field value` into one validated config; every complaint is one line.

The only place where settings are read. A config is a flat pydantic model whose fields carry a
one-line description; the same model serves Python, YAML, the command line and sweeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    Self,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from cutaway.base.errors import LARGEST_WHOLE, UserError, nearest, shortened
from cutaway.studies.yaml_file import field_names

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from cutaway.base.hardware import Need
    from cutaway.training.config import LoopConfig


WEIGHTS = "weights, gradients and Adam's two moments"  # 16 bytes for each parameter
_USUAL_SIZE = 10_000  # of a size whose default depends on other things


class StudyConfig(BaseModel):
    """What every study's config has; rooms add their own fields.

    `free` names the fields a resumed run may change: they do not touch the path of its weights.
    `settled` names those that a training fills in as it begins, with what `auto` became or was
    measured: a resume takes them from the record wherever they are not given.
    `displaces` says which fields of a file are void where another is given on the command line.
    """

    displaces: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    # keys of a file under which fields may stand grouped
    sections: ClassVar[tuple[str, ...]] = ()

    free: ClassVar[frozenset[str]] = frozenset(
        {"device", "threads", "compile", "wandb", "wandb_project", "wandb_group", "tensorboard"}
    )
    settled: ClassVar[frozenset[str]] = frozenset(
        {"device", "precision", "threads", "halvings", "extra_steps"}
    )

    model_config = ConfigDict(
        extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, validate_default=True
    )

    seed: int = Field(0, ge=0)
    """Seed of weights, batches and everything else that is drawn."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto times both on this machine, takes the faster and records it."""
    threads: int | None = Field(None, ge=1, le=1024)
    """Threads a CPU computes with; default one per core, or 1 where a step is too small to gain."""
    halvings: int = Field(0, ge=0, le=10)
    """How often each batch is cut in two; rises by itself where a GPU's memory runs out."""
    extra_steps: list[Annotated[int, Field(ge=1, lt=2**62)]] = []
    """Steps after the planned ones, at the final learning rate: one number for every time a run was
    extended."""
    compile: bool = False
    """Compile the loss with torch.compile (needs a C++ compiler; slow to start)."""
    wandb: Literal["off", "online", "offline"] = "off"
    """Also log to Weights & Biases (needs the extra `wandb`; key from `wandb login`, the
    environment's WANDB_API_KEY or a file .env here)."""
    wandb_project: str = "cutaway"
    """Weights & Biases project."""
    wandb_group: str | None = None
    """Weights & Biases group: runs that are shown together."""
    tensorboard: bool = False
    """Also write TensorBoard events into the run folder (needs the extra `tensorboard`)."""

    @field_validator("extra_steps", mode="before")
    @classmethod
    def _each_extension(cls, value: Any) -> Any:
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, int) and not isinstance(value, bool):
            return [value] if value else []
        return value

    @model_validator(mode="after")
    def _within_bounds(self) -> Self:
        for name in type(self).model_fields:
            require_within_bounds(name, getattr(self, name))
        return self

    def thread_count(self) -> int | None:
        """Threads to compute with on a CPU; None: as many as there are."""
        return self.threads

    def anchored(self) -> Self:
        """The same settings with relative paths made absolute, as a run's record keeps them."""
        return self

    def memory_needed(self, *, in_parts: bool = False) -> list[Need]:
        """What a run takes at least, as far as these settings tell; empty where they tell nothing.

        `in_parts`: a batch that is too large is processed in parts, as on a GPU.
        """
        return []

    def unusual(self, *names: str) -> dict[str, Any]:
        """Those of these settings that lie furthest above their default; all, where none does."""
        usual = {name: type(self).model_fields[name].default or _USUAL_SIZE for name in names}
        times = {name: (getattr(self, name) or 0) / usual[name] for name in names}
        most = max(times.values())
        chosen = [name for name in names if times[name] > 1 and times[name] ** 2 >= most]
        return {
            name: getattr(self, name)
            for name in sorted(chosen or names, key=lambda name: -times[name])
            if getattr(self, name) is not None
        }

    def loop(self) -> LoopConfig:
        """These settings in the loop's own names."""
        raise TypeError(f"{type(self).__name__} does not say how to train")

    def stack_key(self) -> str | None:
        """Runs whose keys are equal can train as one stacked program; None: this one cannot."""
        return None

    def faster_stacked(self) -> bool:
        """Whether a stack of such runs is expected to take less time than one after the other."""
        return False


def require_within_bounds(name: str, value: Any) -> None:
    """ValueError for whole numbers beyond 63 bits, and text that no file can hold."""
    if isinstance(value, list | tuple):
        for one in value:
            require_within_bounds(name, one)
    elif isinstance(value, int) and abs(value) > LARGEST_WHOLE:
        raise ValueError(f"{name} = {_given(value)}: expected a whole number below 2^63")
    elif isinstance(value, str):
        if "\0" in value:
            raise ValueError(f"{name} = {shortened(repr(value))}: holds a NUL character")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name} = {shortened(repr(value))}: expected text in UTF-8") from None


C = TypeVar("C", bound=BaseModel)


def overrides(tokens: Sequence[str]) -> dict[str, Any]:
    """`["--learning-rate", "1e-3", "--no-bias"]` → `{"learning_rate": "1e-3", "bias": False}`.

    Hyphen and underscore are the same; a flag alone means true; the last of two wins.
    """
    values: dict[str, Any] = {}
    waiting = list(tokens)
    while waiting:
        token = waiting.pop(0)
        if not isinstance(token, str):
            raise TypeError(f"tokens: expected texts, got {type(token).__name__}")
        if not token.startswith("--") or len(token) < 3:
            raise UserError(f"unexpected argument {token!r}: settings look like --field value")
        name, equals, value = token[2:].partition("=")
        name = name.replace("-", "_")
        if equals:
            values[name] = value
        elif waiting and not waiting[0].startswith("--"):
            values[name] = waiting.pop(0)
        elif name.startswith("no_"):
            values[name[3:]] = False
        else:
            values[name] = True
        if isinstance(values.get(name), str) and values[name].lower() in ("none", "null"):
            values[name] = None
    return values


def resolve(model: type[C], file: Mapping[str, Any], over: Mapping[str, Any] | None = None) -> C:
    """One validated config from a file's values and, above them, the command line's.

    Text in a file is not taken for a number (`'1e-8'` in quotes is a mistake, and named as one);
    the command line knows only text, so there it is.
    """
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise TypeError(f"model: expected the class of a config, got {type(model).__name__}")
    for given in (file, {} if over is None else over):
        if not isinstance(given, Mapping):
            raise TypeError(f"settings: expected a mapping, got {type(given).__name__}")
    file = flattened(model, file)
    for name, value in file.items():
        field = model.model_fields.get(name)
        if field and isinstance(value, str) and not _takes_text(field.annotation):
            raise UserError(
                f"{name} = {value!r}: expected {_kind(field.annotation)}, found text; write it without quotes"
            )
    over = over or {}
    for given, void in getattr(model, "displaces", {}).items():
        if given in over:
            file = {name: value for name, value in file.items() if name not in void}
    over = {name: _whole(model.model_fields.get(name), value) for name, value in over.items()}
    file, over = (
        {name: _off(model.model_fields.get(name), value) for name, value in values.items()}
        for values in (file, over)
    )
    for name, value in {**file, **over}.items():
        field = model.model_fields.get(name)
        if field and isinstance(value, bool) and bool not in _kinds(field.annotation):
            raise UserError(f"{name}: needs a value, {_kind(field.annotation)}")
        if isinstance(value, list) and any(isinstance(one, bool) for one in value):
            raise UserError(f"{name} = {value}: expected no true or false in this list")
    try:
        return model.model_validate({**file, **over})
    except ValidationError as error:
        raise UserError("; ".join(_complaint(model, one) for one in error.errors())) from None


def flattened(model: type[BaseModel], file: Mapping[str, Any]) -> dict[str, Any]:
    """A file's values with those of the model's `sections` put beside the others.

    Raises UserError for a field that is given in two places.
    """
    flat: dict[str, Any] = {}
    for name, value in file.items():
        grouped = name in getattr(model, "sections", ()) and isinstance(value, Mapping)
        inner = field_names(value) if grouped else {name: value}
        if twice := flat.keys() & inner.keys():
            raise UserError(f"{min(map(str, twice))}: is given twice, in two places of the file")
        flat |= inner
    return flat


def _complaint(model: type[BaseModel], error: Any) -> str:
    field = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = model.model_fields
        meant = [name for name in synonyms(field) if name in known]
        close = f"; did you mean {meant[0]!r}?" if meant else nearest(field, known)
        return f"{model.__name__} has no field {field!r}{close}"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    message = error["msg"]
    return f"{field} = {_given(error['input'])}: {message[0].lower()}{message[1:]}"


def _given(value: Any) -> str:
    """A value as its user wrote it: numbers, which the command line knows as text, without quotes."""
    try:
        float(value)
        return shortened(str(value))
    except (TypeError, ValueError, OverflowError):
        pass
    try:
        return shortened(repr(value))
    except ValueError:  # Python writes out no whole number of more than 4,300 digits
        return "a number of thousands of digits"


def synonyms(field: str) -> tuple[str, ...]:
    """What others call the same setting; empty where none is known."""
    return next((names for names in _SYNONYMS if field in names), ())


_SYNONYMS = (
    ("lr", "learning_rate", "step_size"),
    ("epochs", "max_iters", "steps", "iterations", "iters", "max_steps", "n_steps", "num_epochs"),
    ("warmup_epochs", "warmup_iters", "warmup_steps", "warmup"),
    ("hidden_dim", "n_embd", "d_model", "width", "hidden_size", "dim"),
    ("n_layers", "n_layer", "num_layers", "layers", "depth"),
    ("n_heads", "n_head", "num_heads", "heads"),
    ("model_type", "model", "architecture", "arch", "network"),
    ("operation", "op", "task", "fn_name"),
    ("p", "modulus", "prime", "mod"),
    ("train_frac", "train_fraction", "frac_train", "train_split", "training_fraction"),
    ("weight_decay", "wd"),
    ("grad_clip", "gradient_clip", "clip", "max_grad_norm"),
    ("log_every", "log_interval", "eval_interval", "eval_every"),
    ("checkpoint_every", "checkpoint_interval", "save_every"),
    ("activation", "act_fn", "act"),
    ("optimizer", "optim"),
    ("seed", "random_seed"),
)


def _whole(field: FieldInfo | None, value: Any) -> Any:
    """`"1e3"` for a whole number → 1000, as YAML has it; anything else as it is."""
    kinds = _kinds(field.annotation) if field is not None else ()
    if not isinstance(value, str) or int not in kinds or str in kinds:
        return value
    try:
        number = float(value)
    except ValueError:
        return value
    return int(number) if number.is_integer() and "e" in value.lower() else value


def _off(field: FieldInfo | None, value: Any) -> Any:
    """False (`--no-wandb`) for a choice that has `off` → `off`; anything else as it is."""
    return "off" if value is False and field and "off" in _kinds(field.annotation) else value


def _takes_text(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, type(int | str)):
        return any(_takes_text(one) for one in get_args(annotation))
    return annotation not in (int, float, bool, type(None))


def _kinds(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) or (annotation,)


def _kind(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(map(str, get_args(annotation)))
    if get_origin(annotation) is list:
        return "a list"
    if get_origin(annotation) in (Union, type(int | str)):
        kinds = [one for one in get_args(annotation) if one is not type(None)]
        return " or ".join(map(_kind, kinds))
    plain = [annotation]
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return " or ".join(names.get(one, str(one)) for one in plain)


def describe(model: type[BaseModel]) -> list[dict[str, Any]]:
    """Name, default and description of every field, for help texts."""
    return [
        {
            "field": name,
            "default": "required" if field.is_required() else field.default,
            "meaning": field.description or "",
        }
        for name, field in model.model_fields.items()
    ]
