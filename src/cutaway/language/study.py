"""The language study: from settings to a task with its instruments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cutaway.base.errors import UserError
from cutaway.dynamics.norms import WeightNorms
from cutaway.language.advice import advice
from cutaway.language.config import LanguageConfig
from cutaway.language.task import LanguageTask
from cutaway.language.words import TopWords
from cutaway.nets.architectures import build
from cutaway.runs.folder import Run
from cutaway.runs.training_log import TrainingLog
from cutaway.studies.study import Prepared, Study
from cutaway.text.sources import source
from cutaway.text.token_files import token_files
from cutaway.text.windows import gather, spaced_windows

WORDS_TOKENS = 4096  # held-out tokens per reading of words: 0.4 to 2.2 % of training time, measured


class LanguageStudy(Study[LanguageConfig]):
    name = "language"
    headline = ("val_loss", "best_val_loss", "val_bits_per_byte")

    def prepare(self, config: LanguageConfig) -> Prepared:
        files = token_files(
            source(config.data),
            tokenizer=config.tokenizer,
            vocab_size=config.vocab_size,
            validation_fraction=config.validation_fraction,
        )
        tokenizer = files.tokenizer
        rows = config.vocabulary(tokenizer.vocab_size)
        for part, tokens in (("training", files.train), ("validation", files.validation)):
            if len(tokens) <= config.block_size:
                raise UserError(
                    f"data = {config.data!r}: {len(tokens)} {part} tokens, fewer than block_size + 1 "
                    f"= {config.block_size + 1}; give more text or a smaller block_size"
                )
        architecture = config.architecture(rows)
        model = build(architecture, config.seed)
        task = LanguageTask(model, config, files)
        instruments: list = [WeightNorms(config.eval_interval)]
        if config.model == "backpack":
            count = max(1, WORDS_TOKENS // config.block_size)
            places = spaced_windows(files.validation, config.block_size, count)
            windows = gather(files.validation, places, config.block_size)[:, :-1]
            instruments.append(TopWords(config.words_every, windows, tokenizer))
        return Prepared(
            task=task,
            instruments=instruments,
            sinks=[TrainingLog(config.log_points, config.top_words)],
            parents=[{"kind": "tokens", "id": config.data, "sha256": files.fingerprint}],
            resolved={
                "architecture": architecture,
                "train_tokens": len(files.train),
                "validation_tokens": len(files.validation),
            },
            notices=files.notices,
            write=lambda folder: tokenizer.save(Path(folder) / "tokenizer"),
        )

    def architecture(self, config: LanguageConfig) -> dict[str, Any]:
        from cutaway.language.sizing import sized

        config = sized(config)
        return config.architecture(config.vocab_size)

    def advise(self, run: Run, config: LanguageConfig) -> list[str]:
        history, words = run.read("history"), run.read("words")
        return [] if history is None else advice(history, words, config)
