"""What an extraction can be asked for; every complaint about it is one line."""

from __future__ import annotations

import os
import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cutaway.base.errors import LARGEST_WHOLE, UserError, nearest
from cutaway.text.reading import SEPARATORS

STORE_DTYPES = ("float32", "bfloat16", "int8")
MODEL_DTYPES = ("auto", "float32", "bfloat16")
_THOUSANDS = re.compile(r"[0-9]{1,3}(,[0-9]{3})+(\.[0-9]+)?[a-z]?")
_UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}
_NO_FLOAT16 = (
    "float16 ends at 65504, and states of many models go beyond (position 0 first): "
    "NaN would follow; bfloat16 takes the same room"
)


class ExtractionConfig(BaseModel):
    """Which states of which model over which text."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)

    model: str
    """A run, a folder in Hugging Face layout, a GGUF file, or a Hugging Face id."""
    data: str = "docstrings"
    """Text: a source by name, a file or a folder (`cutaway corpus ls`)."""
    layers: str = "all"
    """Sites: all (residual stream after every block), or 0,6,11, embed, mlp.3, attention.3, ..."""
    tokens: int = 1_000_000
    """Tokens of text (500k, 10M), rounded up to full contexts."""
    context_length: int | None = Field(None, ge=2)
    """Tokens in a context; default what the model reads, at most 1024."""
    batch_size: int = Field(8, ge=1)
    """Contexts in a forward pass."""
    dtype: str = "auto"
    """The model's own: auto, float32 or bfloat16."""
    store_dtype: str = "float32"
    """The store's: float32, bfloat16 or int8 (with a scale per token)."""
    bos: bool | None = None
    """Special tokens around each context, whose states are not stored: default those the tokenizer
    adds by itself (BOS of Llama and Gemma, [CLS] and [SEP] of encoders); true: BOS; false: none."""
    separator: str = "auto"
    """What stands between packed documents: bos, eos, both, none, or auto (what the tokenizer and the
    model's family say; where they do not, what the model reads best)."""
    chat: bool = False
    """The data are conversations, read with the model's chat template."""
    reply_only: bool = False
    """Where chat: only the states of replies are kept."""
    shard_rows: int | None = Field(None, ge=1)
    """Most rows of a shard; default what 256 MB hold, less where there are few tokens."""
    step: str = "best"
    """A run's checkpoint: best, last or a step."""
    seed: int = Field(0, ge=0)
    """Recorded with the run; nothing in an extraction is drawn."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    @model_validator(mode="wrap")
    @classmethod
    def _in_one_line(cls, values: Any, handler: Any) -> Any:
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            whole = field is not None and field.annotation in (int, int | None)
            if whole and isinstance(value, bool):
                raise UserError(f"{name} = {value}: expected a whole number")
            if whole and name != "tokens" and isinstance(value, int) and value > LARGEST_WHOLE:
                raise UserError(f"{name}: expected a whole number below 2^63")
        try:
            return handler(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            if first["type"] == "extra_forbidden":
                known = nearest(name, cls.model_fields)
                raise UserError(f"an extraction has no setting {name!r}{known}") from None
            message = first["msg"][0].lower() + first["msg"][1:]
            raise UserError(f"{name} = {first['input']!r}: {message}") from None

    @field_validator("tokens", mode="before")
    @classmethod
    def _counted(cls, value: Any) -> int:
        return count(value)

    @field_validator("separator")
    @classmethod
    def _known_separator(cls, value: str) -> str:
        if value not in SEPARATORS:
            raise UserError(f"separator = {value!r}: expected one of {', '.join(SEPARATORS)}")
        return value

    @field_validator("layers", "step", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> str:
        return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    @model_validator(mode="after")
    def _known_dtypes(self) -> ExtractionConfig:
        for name, known in (("dtype", MODEL_DTYPES), ("store_dtype", STORE_DTYPES)):
            value = getattr(self, name)
            if value not in known:
                why = _NO_FLOAT16 if value in ("float16", "fp16", "half") else ""
                raise UserError(
                    f"{name} = {value!r}: {why or 'expected one of ' + ', '.join(known)}"
                )
        if self.reply_only and not self.chat:
            raise UserError("reply_only: goes with chat, which says what a reply is")
        if self.chat and self.separator != "auto":
            raise UserError(
                f"separator = {self.separator!r}: the chat template says what stands between "
                "conversations; leave it out"
            )
        return self

    def anchored(self) -> ExtractionConfig:
        """The same with paths made absolute, so that it works from any folder."""
        path, column, rest = self.data.partition("::")
        data = os.path.abspath(path) + column + rest if os.path.exists(path) else self.data
        model = next(
            (
                os.path.abspath(place)
                for place in (self.model, os.path.join("runs", self.model))
                if os.path.exists(place)
            ),
            self.model,
        )
        return self.model_copy(update={"data": data, "model": model})


def count(value: Any) -> int:
    """`10M`, `500k`, `1_000_000`, 12 → a number of tokens; UserError for anything else, or none."""
    text = str(value).strip().lower().replace("_", "")
    if _THOUSANDS.fullmatch(text):  # a comma elsewhere may be meant for a point
        text = text.replace(",", "")
    unit = text[-1:] if text[-1:].isalpha() else ""
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(text.removesuffix(unit)) * _UNITS[unit]
        if number != int(number) or number < 1:
            raise ValueError
    except (ValueError, KeyError, OverflowError):
        raise UserError(
            f"tokens = {value!r}: expected a whole number of 1 or more, like 250000, 500k or 10M"
        ) from None
    return int(number)
