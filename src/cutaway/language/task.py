"""Language modelling as a task for the loop: windows of tokens in, loss in nats per token out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.language.config import LanguageConfig
from cutaway.nets.backpack import Backpack
from cutaway.nets.gpt2 import LanguageModel
from cutaway.nets.trunk import Attention, set_attention
from cutaway.text.token_files import TokenFiles
from cutaway.text.windows import gather, spaced_windows, starts
from cutaway.training.task import WHOLE, Loss, Part, Task


class TokenBatch(NamedTuple):
    """Tokens and, one position on, their targets: (windows, block_size) int64 each."""

    tokens: Tensor
    targets: Tensor


class LanguageTask(Task):
    """Next-token prediction on random windows of the training tokens.

    Evaluation uses the same spaced windows of the validation tokens each time.
    """

    unit = "tokens"

    def __init__(self, model: LanguageModel, config: LanguageConfig, files: TokenFiles):
        super().__init__()
        self.model = model
        self.config, self.files = config, files
        self._twice = False
        self.windows = config.batch_size * config.gradient_accumulation_steps
        self.units_per_step = self.windows * config.block_size
        self.held_out = spaced_windows(
            files.validation, config.block_size, config.eval_iters * config.batch_size
        )

    def batch(self, step: int, part: Part = WHOLE) -> TokenBatch:
        config, tokens = self.config, self.files.train
        places = starts(len(tokens), config.block_size, self.windows, config.seed, step)
        return self.read(tokens, places[part.slice(self.windows)])

    def read(self, tokens: np.ndarray, places: np.ndarray) -> TokenBatch:
        """The windows that start at `places`, on the model's device."""
        windows = gather(tokens, places, self.config.block_size)
        windows = windows.to(self.model.embedding.device)
        return TokenBatch(windows[:, :-1], windows[:, 1:])

    def loss(self, batch: TokenBatch) -> Loss:
        share = batch.tokens.shape[0] / self.windows
        loss = self.model.loss(batch.tokens, batch.targets, twice=self._twice)
        return Loss(loss, weight=share)

    def evaluate(self) -> dict[str, float]:
        """`val_loss` in nats per token over the held-out windows, and in bits per byte.

        bits per byte = loss / ln 2 · tokens / bytes of the validation text, so that runs with
        different tokenizers compare.
        """
        size = self.config.batch_size
        total = torch.zeros((), dtype=torch.float64)
        for start in range(0, len(self.held_out), size):
            batch = self.read(self.files.validation, self.held_out[start : start + size])
            total += self.model.loss(*batch).cpu().double() * len(batch.tokens)
        loss = float(total) / len(self.held_out)
        per_byte = len(self.files.validation) / self.files.validation_bytes
        return {"val_loss": loss, "val_bits_per_byte": loss / math.log(2) * per_byte}

    # -- what instruments may ask: an example is a window, its class the token after its last ---

    @contextmanager
    def twice_differentiable(self) -> Iterator[None]:
        """Attention written out and whole logits; afterwards the kernels are what they were."""
        kernels = [(m, m.kernel) for m in self.model.modules() if isinstance(m, Attention)]
        was = self._twice
        set_attention(self.model, "plain")
        self._twice = True
        try:
            yield
        finally:
            self._twice = was
            for attention, kernel in kernels:
                attention.kernel = kernel

    def example_losses(self, batch: TokenBatch) -> Tensor:
        """Mean loss of each window, nats per token: (windows,)."""
        logits = self.model(batch.tokens).float()
        losses = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
        return losses.view(batch.targets.shape).mean(1)

    def embed(self, batch: TokenBatch) -> Tensor:
        """Token embeddings before positions are added, (windows, T, d)."""
        return self.model.trunk.token_embedding(batch.tokens).detach()

    def outputs(self, embeddings: Tensor) -> Tensor:
        """Logits at the last position, (windows, vocabulary).

        A Backpack's senses read the embeddings too; the head is held fixed.
        """
        with self.twice_differentiable():
            state = self.model.trunk.forward_from_embeddings(embeddings)
            if isinstance(self.model, Backpack):
                alpha = self.model.contextualisation(state)
                state = self.model.mix(alpha, self.model.senses(embeddings))
        return F.linear(state[:, -1], self.model.embedding)

    def targets(self, batch: TokenBatch) -> Tensor:
        """The token after each window's last, (windows,)."""
        return batch.targets[:, -1]

    def representations(self, batch: TokenBatch) -> Tensor:
        """What the head decodes at the last position, (windows, d)."""
        return self.model.state(batch.tokens)[:, -1]
