"""From text to a store: one forward pass per batch gives every wanted site, a thread writes shards.

Contexts follow each other in a fixed order and no batch crosses a shard, so a shard's bytes are a
function of the settings alone: an extraction that was killed goes on at the context after its last
complete shard and ends with the same files (on the same device, threads and versions).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cutaway.activations.collecting import Collector, ShardWriter
from cutaway.activations.config import ExtractionConfig
from cutaway.activations.forward import Forward
from cutaway.activations.quantise import DTYPES
from cutaway.activations.reading import context_length_of, decided, pack
from cutaway.activations.store import (
    FORMAT,
    MANIFEST,
    SHARDS,
    STUDY,
    ActivationStore,
    missing,
    read_manifest,
    reading_of,
    statistics,
)
from cutaway.base import files, hardware
from cutaway.base.display import notice
from cutaway.base.doors import door
from cutaway.base.errors import RunFailed, UserError, whole_in
from cutaway.base.progress import duration, progress
from cutaway.nets.check import tell
from cutaway.nets.reference import open_model
from cutaway.nets.sites import Site
from cutaway.runs.folder import Run
from cutaway.runs.session import Session
from cutaway.text.reading import Reading

SHARD_BYTES = 256_000_000  # what a shard holds at most; two of them are in memory
_SHARDS = 8  # shards at least, so that short extractions too can go on where they stood
_FREE = {"device"}  # what a resumed extraction may change


@door
def extract(
    config: ExtractionConfig | Mapping[str, Any], out: str | Path, *, resume: bool = False
) -> ActivationStore:
    """Write the states that `config` names to a store in the folder `out`, and open it.

    Before anything is written it is said how many tokens, bytes and (after a first batch) how long
    it takes; what does not fit the disk is refused. `resume` goes on with an extraction that was
    stopped or killed (from the start where it had no shard yet). Rows with a state that is not
    finite, at any site, are left out and counted. Raises UserError where nothing could start,
    RunFailed, or Interrupted.
    """
    if not isinstance(config, ExtractionConfig):
        config = ExtractionConfig(**config)
    config, out = config.anchored(), Path(out)
    hardware.device(config.device)
    files.require_writable(out)
    before = recorded(out) if resume else {}
    session = Session(out, going_on=resume)
    _require_same(before, config, out)
    if session.before is not None and session.before.status == "done":
        notice(f"{out}: already done, {session.before.steps_done:,} contexts")
        return ActivationStore(out)
    return _Extraction(config, session).run()


def recorded(out: str | Path) -> dict[str, Any]:
    """The settings of the extraction in `out`; UserError where there is none."""
    record = Run.open(out).record
    if record.study != STUDY:
        raise UserError(f"{out}: holds a {record.study} run, not an extraction")
    # before separators were recorded end_of_text followed each document, and there was no chat
    return {"separator": "eos", "chat": False, "reply_only": False, **record.config}


def _require_same(before: Mapping[str, Any], config: ExtractionConfig, out: Path) -> None:
    """Refuse settings with which an extraction that has begun cannot go on."""
    for name, value in config.model_dump(mode="json").items():
        if name in before and before[name] != value and name not in _FREE:
            raise UserError(
                f"{name} = {value!r}: {out} was begun with {before[name]!r}; leave it out to go "
                "on, or extract to another --out"
            )


class _Extraction:
    """One call of `extract`: what its parts share."""

    def __init__(self, config: ExtractionConfig, session: Session):
        self.config, self.session, self.out = config, session, session.out
        self.resume = session.before is not None
        number = whole_in(config.step)
        step = config.step if number is None else number
        self.model = open_model(config.model, device=config.device, dtype=config.dtype, step=step)
        self.sites = self.model.sites(config.layers)  # refuses what the architecture lacks
        self.width = self.model.width_of(self.sites)
        self.text = pack(
            self.model,
            config.data,
            config.tokens,
            config.context_length,
            reading=self._reading(),
        )
        self.manifest = self._manifest()
        if self.resume and (self.out / MANIFEST).exists():
            self._continue()
        self._require_memory()
        self.said: list[str] = []  # before there is a run to keep it
        self.forward = Forward(
            self.model, self.sites, self.manifest["batch_size"], self.said.append
        )

    def _reading(self) -> Reading:
        """How the text is read: as it was begun, or as it is decided now."""
        if self.resume and (self.out / MANIFEST).exists():
            return reading_of(read_manifest(self.out), self.model.tokenizer)
        config = self.config
        return decided(
            self.model,
            config.data,
            context_length=context_length_of(self.model, config.context_length),
            bos=config.bos,
            separator=config.separator,
            chat=config.chat,
            reply_only=config.reply_only,
        )

    def _require_memory(self) -> None:
        """Refuse a batch whose states alone do not fit; on a GPU a smaller one is tried then."""
        on, text = self.model.device, self.text
        contexts = 1 if on.type == "cuda" else min(self.config.batch_size, text.n_contexts)
        states = 4 * contexts * text.context_length * self.width * len(self.sites)
        asked = {"batch_size": contexts, "context_length": text.context_length}
        hardware.require_memory([hardware.Need(states, "a batch's states", asked)], on)

    def _manifest(self) -> dict[str, Any]:
        text, itemsize = self.text, DTYPES[self.config.store_dtype].itemsize
        scale = 4 if self.config.store_dtype == "int8" else 0
        self.row_bytes = len(self.sites) * (self.width * itemsize + scale) + 12
        rows = self.config.shard_rows or SHARD_BYTES // self.row_bytes
        contexts = min(max(1, rows // text.payload), -(-text.n_contexts // _SHARDS))
        batch = self.config.batch_size
        if contexts > batch:  # whole batches
            contexts -= contexts % batch
        return {
            "format": FORMAT,
            "kind": STUDY,
            "reference": self.model.reference.to_json(),
            "sites": [str(site) for site in self.sites],
            "width": self.width,
            "dtype": self.config.store_dtype,
            "model_dtype": str(self.model.dtype).removeprefix("torch."),
            "data": {
                "source": self.config.data,
                "fingerprint": text.fingerprint,
                "context_length": text.context_length,
                "bos": text.reading.prefix[0] if text.reading.prefix else None,
                "reading": text.reading.to_json(),
            },
            "contexts": text.n_contexts,
            "contexts_per_shard": contexts,
            "batch_size": batch,
            "complete": False,
            "shards": [],
        }

    def _continue(self) -> None:
        """Take over what a stopped extraction left, if it was of the same model and text."""
        before = read_manifest(self.out)
        if found := missing(self.out, before):
            raise UserError(f"{found[0]}; extract again to another --out")
        for name in ("reference", "data"):
            mine, theirs = self.manifest[name], before[name]
            same = mine == theirs
            if name == "data" and self.text.known_as(theirs["fingerprint"]):
                # the reading is that of the manifest already; old ones hold none
                kept = {"fingerprint": theirs["fingerprint"], "reading": theirs.get("reading")}
                same = {**mine, **kept} == {**theirs, "reading": theirs.get("reading")}
            if name == "reference":
                keys = ("weights_sha256", "tokenizer_sha256")
                same = all(mine[key] == theirs[key] for key in keys)
            if not same:
                what = self.config.model if name == "reference" else self.config.data
                raise UserError(
                    f"{self.out}: {what} has changed since this extraction began; start a new one"
                )
        self.manifest = before

    # -- running ---------------------------------------------------------------------------

    def run(self) -> ActivationStore:
        shards = self.manifest["shards"]
        self.done = shards[-1]["contexts"][1] if shards else 0
        left = (self.text.n_contexts - self.done) * self.text.payload * self.row_bytes
        files.require_writable(self.out, left + left // 100)
        begun = time.monotonic()
        if self.model.device.type == "cpu":
            hardware.keep_freed_memory()
        stop = self._stop(self.done)
        first = self._states(self.done, stop)
        self._preflight(left, (time.monotonic() - begun) / (stop - self.done))
        with self._taken() as run, self.session.working(self._leave, self._stopped):
            self._go(run, first, stop)
        return ActivationStore(self.out)

    def _leave(self) -> None:
        self.session.run.save_record(steps_done=self._complete())

    def _stopped(self) -> str:
        return f"stopped after {self._complete() * self.text.payload:,} tokens"

    def _complete(self) -> int:
        """Contexts in complete shards."""
        shards = self.manifest["shards"]
        return shards[-1]["contexts"][1] if shards else 0

    def _taken(self) -> Run:
        """The run's folder, new or taken up again."""
        before = self.session.before
        run = self.session.take(
            study=STUDY,
            config=self.config.model_dump(mode="json") if before is None else before.config,
            seed=self.config.seed,
            steps_planned=self.text.n_contexts,
            parents=[
                self.model.reference.to_json(),
                {"kind": "tokens", "id": self.config.data, "sha256": self.text.fingerprint},
            ],
            resolved={
                "device": hardware.describe(self.model.device),
                "dtype": self.manifest["model_dtype"],
                "sites": self.manifest["sites"],
                "context_length": self.text.context_length,
                "reading": self.text.reading.to_json(),
            },
        )
        if self.resume:
            for left in (self.out / SHARDS).glob(".*.tmp"):  # it alone writes shards
                left.unlink()
        else:
            self.model.reads.save(run.path / "tokenizer")
        return run

    def _go(self, run: Run, states: dict[Site, Tensor], stop: int) -> None:
        """Every batch from where it stands; the states of one are kept while the next is computed."""
        text, total = self.text, self.text.n_tokens
        self.forward.tell = run.notice
        for line in self.said:
            run.notice(line)
        (self.out / SHARDS).mkdir(exist_ok=True)
        files.write_json(self.out / MANIFEST, self.manifest)
        capacity = self.manifest["contexts_per_shard"] * text.payload
        with (
            ShardWriter(self.out, self.manifest) as writer,
            progress("extracting", total, "tokens") as bar,
        ):
            collector = Collector(
                *(self.sites, self.model, DTYPES[self.config.store_dtype]),
                *(capacity, self.done, writer),
            )
            bar.start_at(self.done * text.payload)
            start = self.done
            while True:
                batch = collector.hand_over(states, text, start, stop)
                start, finished = stop, stop == text.n_contexts
                if not finished:  # on a GPU this is under way while the batch before is collected
                    stop = self._stop(start)
                    states = self._states(start, stop)
                collector.collect(batch, ends_shard=self._ends_shard(batch.stop))
                bar.update(batch.stop * text.payload)
                if finished:
                    break
        self._finish(run)

    def _stop(self, start: int) -> int:
        """Where the batch from context `start` ends: no batch crosses a shard."""
        each = self.manifest["contexts_per_shard"]
        return min(
            start + self.forward.batch_size, (start // each + 1) * each, self.text.n_contexts
        )

    def _ends_shard(self, stop: int) -> bool:
        return stop % self.manifest["contexts_per_shard"] == 0 or stop == self.text.n_contexts

    def _states(self, start: int, stop: int) -> dict[Site, Tensor]:
        """States of contexts start to stop − 1; resuming needs to know how they were batched."""
        states = self.forward(torch.from_numpy(self.text.contexts(start, stop).tokens))
        self.manifest["batch_size"] = self.forward.batch_size
        return states

    # -- telling ---------------------------------------------------------------------------

    def _preflight(self, left: int, seconds: float) -> None:
        """What it takes: `left` bytes, and `seconds` for each context."""
        text = self.text
        tell(self.model, self.sites)
        eta = seconds * (text.n_contexts - self.done)
        dequantised = self.model.reference.dequantised
        weights = f"weights {dequantised}; " if dequantised else ""
        going_on = f" (from token {self.done * text.payload:,} on)" if self.done else ""
        notice(
            f"{weights}{text.n_tokens:,} tokens in contexts of {text.context_length}{going_on}, "
            f"{len(self.sites)} sites × {self.width} in {self.config.store_dtype}: "
            f"{files.human_bytes(left)} to write, {files.human_bytes(files.free_bytes(self.out))} "
            f"free; about {duration(eta)} by the first batch; "
            f"read with {text.reading.described(self.model.tokenizer)}"
        )

    def _finish(self, run: Run) -> None:
        """The figures of the whole in the manifest and the record, and what its owner should know."""
        manifest = self.manifest
        shards = manifest["shards"]
        rows = sum(shard["rows"] for shard in shards)
        out = sum(shard["rows_left_out"] for shard in shards)
        summary = {}
        for site in manifest["sites"]:
            of = [shard["statistics"][site] for shard in shards]
            figures = {part: statistics(shards, site, part) for part in ("rest", "first", "all")}
            figures["non_finite"] = sum(one["non_finite"] for one in of)
            kept = max(1, figures["rest"]["rows"])
            figures["relative_error"] = sum(one["relative_error"] for one in of) / kept
            summary[site] = figures
        if out:
            worst = ", ".join(
                f"{site}: {figures['non_finite']:,}"
                for site, figures in summary.items()
                if figures["non_finite"]
            )
            run.notice(
                f"{out:,} of {rows + out:,} tokens have a state that is not finite ({worst})"
            )
        if not rows:
            raise RunFailed("every token has a state that is not finite: nothing to store")
        worst = max(summary, key=lambda site: summary[site]["relative_error"])
        error = summary[worst]["relative_error"]
        if error:
            run.notice(
                f"stored as {manifest['dtype']}: mean ‖x − x̂‖² / ‖x‖² at most {error:.2g} ({worst})"
            )
        run.known = {
            f"{SHARDS}/{shard['file']}": {"bytes": shard["bytes"], "sha256": shard["sha256"]}
            for shard in shards
        }
        manifest |= {"complete": True, "rows": rows, "rows_left_out": out, "statistics": summary}
        files.write_json(self.out / MANIFEST, manifest)
        run.save_record(steps_done=self.text.n_contexts, steps_attempted=self.text.n_contexts)
        run.finish({"rows": rows, "rows_left_out": out, "relative_error": error})
