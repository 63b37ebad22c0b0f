"""Which weights something was made from: what stores, dictionaries and probes remember of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from cutaway.base import json_text
from cutaway.base.errors import UserError
from cutaway.nets.quantised import dequantised, named

FORMAT = 1


@dataclass(frozen=True)
class ModelReference:
    """Which weights something was made from; stores, dictionaries and probes carry it.

    `id` is a hub id, or the path a folder had; the hashes say whether it is still the same model.
    """

    kind: Literal["run", "huggingface"]
    id: str
    revision: str | None  # a hub model's commit
    step: int | None  # a run's checkpoint
    weights_sha256: str
    tokenizer_sha256: str | None
    n_layers: int
    width: int
    quantisation: str | None = None  # how a GGUF file stored it: `4 bits (Q4_K_M)`

    @property
    def dequantised(self) -> str:
        """`dequantised from 4 bits (Q4_K_M)`, to stand beside figures; empty for other models."""
        return dequantised(self.quantisation)

    @property
    def named(self) -> str:
        """The model's id and, where it is so, that its weights were dequantised."""
        return named(self.id, self.quantisation)

    def same_model(self, other: ModelReference) -> bool:
        """Whether both mean the same weights and the same tokens, wherever they lie."""
        return (self.weights_sha256, self.tokenizer_sha256) == (
            other.weights_sha256,
            other.tokenizer_sha256,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data for a JSON file."""
        content = {"format": FORMAT, **asdict(self)}
        if self.quantisation is None:  # as files from before this field have it
            del content["quantisation"]
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any] | str) -> ModelReference:
        """What `to_json` gave, or its text. UserError for anything else and for a newer format."""
        try:
            content = json_text.loads(content) if isinstance(content, str) else dict(content)
            form = content.pop("format")
            if isinstance(form, int) and form > FORMAT:
                raise UserError(
                    f"model reference: format {form} is newer than this cutaway reads ({FORMAT})"
                )
            known = {field.name for field in fields(cls)}
            return cls(**{key: value for key, value in content.items() if key in known})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"model reference: not one ({error})") from None
