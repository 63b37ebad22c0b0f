"""Probe data and states made up, so that what there is to find in them is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from cutaway.nets.model import Model
from cutaway.nets.sites import parse_site
from cutaway.probes.data.examples import PARTS, Examples, ProbeData, from_contexts
from cutaway.probes.states.collecting import States
from cutaway.probes.states.inputs import Inputs
from cutaway.text.tokenizers import Tokenizer

SITES = tuple(parse_site(one) for one in ("embed", "attention.0", "mlp.0", "residual.0"))
SIZES = {"train": 600, "validation": 300, "test": 300}
PER_DOCUMENT = 10


def planted_data(
    tokenizer: Tokenizer,
    *,
    classes: int = 2,
    share: float = 0.3,
    sizes: dict[str, int] | None = None,
    types: int = 40,
    seed: int = 0,
) -> ProbeData:
    """Contexts of three tokens, the last of them read with one to follow; labels say nothing of
    tokens. Two classes: training has as many of both, the others `share` of the second."""
    draw = torch.Generator().manual_seed(seed)
    parts: dict[str, Examples] = {}
    documents = 0
    for name, count in (sizes or SIZES).items():
        if classes > 2:
            label = torch.arange(count) % classes
        elif name == "train":
            label = torch.arange(count) % 2
        else:
            label = (torch.arange(count) < share * count).long()
        label = label[torch.randperm(count, generator=draw)]
        tokens = torch.randint(10, 10 + types, (count, 4), generator=draw)
        of = documents + torch.arange(count) // PER_DOCUMENT
        documents = int(of[-1]) + 1
        places = [2] * count
        parts[name] = from_contexts(
            tokens.tolist(), range(count), places, places, label.tolist(), of.tolist()
        )
    prevalence = (1 - share, share) if classes == 2 else (1 / classes,) * classes
    return ProbeData(
        name="planted",
        task="next",
        classes=("other", " the") if classes == 2 else tuple("abcdef"[:classes]),
        prevalence=prevalence,
        documents=tuple(f"document {one}" for one in range(documents)),
        parts=parts,
        tokenizer=tokenizer,
        target=" the",
        target_id=tokenizer.encode(" the")[0],
        context_length=3,
        balanced=classes == 2,
    ).reading()


@dataclass(frozen=True)
class Planted(Inputs):
    """Inputs whose states are noise and, at each site, `signal` times a direction of the class.

    `by_token` adds what belongs to the token that is read, in directions of its own. `signals` says
    of a part that its signal is another.
    """

    signal: Sequence[float] = (0.0, 0.0, 0.0, 0.0)
    signals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    by_token: float = 0.0
    width: int = 12
    seed: int = 0

    def states(
        self,
        part: str,
        *,
        own: bool = False,
        model: Model | None = None,
        folder: Path | None = None,
        held: int = 0,
    ) -> tuple[States, Examples]:
        examples = self.data.parts[part]
        fixed = torch.Generator().manual_seed(99)
        of_class = torch.randn(len(self.data.classes), self.width, generator=fixed)
        of_class = torch.nn.functional.normalize(of_class - of_class.mean(0), dim=-1)
        of_token = torch.randn(300, self.width, generator=fixed)
        draw = torch.Generator().manual_seed(1000 * self.seed + PARTS.index(part))
        values = torch.randn(len(self.sites), len(examples), self.width, generator=draw)
        for index, size in enumerate(self.signals.get(part, self.signal)):
            values[index] += size * of_class[examples.label]
        values += self.by_token * of_token[examples.token()]
        odds = 2.0 * (examples.label - 0.5) + torch.randn(len(examples), generator=draw) - 2
        finite = torch.ones(len(examples), dtype=torch.bool)
        return States(list(self.sites), values, finite, odds if own else None), examples


def planted(model: Model, data: ProbeData, **about: object) -> Planted:
    return Planted(data, model, SITES, **about)
