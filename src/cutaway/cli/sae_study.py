"""`cutaway sae study`: arms of a question about dictionaries over seeds, judged side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from cutaway.base import display
from cutaway.base.errors import Interrupted, RunFailed, UserError
from cutaway.cli.common import output_format
from cutaway.cli.sae import Flag, Settings, dictionary_settings
from cutaway.cli.sae_suite import labelled

if TYPE_CHECKING:
    from cutaway.sweeps.grid import Sweep

_SYNTHETIC = "orthogonality"  # the preset of `--synthetic`


def study(
    question: Literal["orthogonality"],
    activations: Annotated[Path | None, Parameter(allow_leading_hyphen=True)] = None,
    *settings: Settings,
    synthetic: Flag = False,
    out: Path | None = None,
    arms: str = "all",
    seeds: str = "5",
    l0: str | None = None,
    push: float = 1.0,
    all_pairs_push: float = 0.1,
    config: Path | None = None,
    tasks: list[str] | None = None,
    jobs: int = 1,
    resume: Flag = False,
    dry_run: Flag = False,
    json: bool = False,
    csv: bool = False,
) -> None:
    """Train every arm of a study over seeds, and say what differs by more than noise.

    Args:
        question: orthogonality: does pushing apart features that fire together reduce absorption?
        activations: The folder `cutaway extract` made, for states of a model.
        settings: Fields of the dictionary's config for every run, as --field value: --layer 1,
            --max-steps 2000, --topk-fraction 0.01, ... (`cutaway train sae --help` lists them).
        synthetic: States of a known hierarchy instead, where absorption is known exactly.
        out: The study's folder: a folder per run, results.csv, comparison.csv and figures/.
        arms: all, or some of them with commas between: none,tau-0.1,adaptive,random.
        seeds: How many seeds (5), or which (10,11,12).
        l0: Target L0s with commas between; default the preset's; needed for a store.
        push: The penalty's weight for every selected pair.
        all_pairs_push: In OrtSAE's arm, the weight for every feature.
        config: A YAML file or preset of settings every run shares.
        tasks: Labelled texts for sparse probing (a file or folder) [parts of the docstrings].
        jobs: Runs trained at the same time.
        resume: Go on with what was stopped; what is done is skipped.
        dry_run: List the runs, and stop.
        json: Print JSON.
        csv: Print CSV.
    """
    from cutaway.orthogonality import report
    from cutaway.runs import checksums
    from cutaway.sweeps.run import run_sweep

    format = output_format(json, csv)
    if out is None:
        raise UserError("sae study: say where to, with --out FOLDER")
    if str(activations).startswith("--"):  # no store was given, and this is the first setting
        activations, settings = None, (str(activations), *settings)
    if not (push > 0 and all_pairs_push > 0):
        raise UserError(f"push = {push:g}, all_pairs_push = {all_pairs_push:g}: expected above 0")
    if synthetic and tasks:
        raise UserError("--tasks: synthetic states have no texts to probe; leave it out")
    pushes = {"push": push, "all_pairs_push": all_pairs_push}
    planned = _planned(activations, synthetic, settings, arms, seeds, l0, config, pushes)
    if dry_run:
        rows = [{"run": run.name, **run.swept} for run in planned.runs]
        display.show(rows, format)
        return
    given = labelled(tasks)  # a mistake is told before training
    swept = run_sweep(planned, out, resume=resume, jobs=jobs)
    if swept.signal is not None:
        left = len(swept.unfinished)
        raise Interrupted(f"{out}: stopped with {left} runs to go; --resume goes on", swept.signal)
    comparison = report.write(out, given, probing=not synthetic)
    shown = report.COLUMNS if format == "table" else None
    display.show(report.shown(comparison.arms, format), format, columns=shown)
    for name in report.figures(out, comparison):
        display.notice(f"wrote {out / 'figures' / name}.png")
    checksums.finish(out)
    if swept.unfinished:
        for row in swept.unfinished:
            display.notice(f"{row['run']}: {row['status']}: {row['reason']}")
        count = f"{len(swept.unfinished)} of {len(swept.rows)} runs"
        raise RunFailed(f"{out}: {count} did not come to their end; --resume tries them again")


def _planned(
    activations: Path | None,
    synthetic: bool,
    settings: tuple[str, ...],
    arms: str,
    seeds: str,
    l0: str | None,
    config: Path | None,
    pushes: dict[str, float],
) -> Sweep:
    from cutaway.activations.store import ActivationStore
    from cutaway.dictionaries.training.config import DictionaryConfig
    from cutaway.orthogonality import experiment as study
    from cutaway.studies.settings import resolve

    if (activations is None) is not synthetic:
        raise UserError("sae study: give a store of hidden states, or --synthetic; one of the two")
    preset = Path(_SYNTHETIC) if synthetic and config is None else config
    given = dictionary_settings(settings, preset)
    checked = resolve(DictionaryConfig, {}, given)  # the command line's texts become numbers
    shared: dict[str, Any] = {field: getattr(checked, field) for field in given}
    if activations is not None:
        shared["activations"] = str(activations)
    usual = shared.pop("target_l0", None)
    for name in ("name", "seed", "data_seed", "truth_seed"):
        shared.pop(name, None)
    targets = [usual] if l0 is None else _numbers("l0", l0, float)
    if targets == [None]:
        raise UserError("l0: which? as in --l0 4,8 (features per token to compare the arms at)")
    if activations is not None:
        store = ActivationStore(activations)
        if checked.layer is not None:
            store.site(checked.layer)  # a wrong one is told before anything starts
        elif len(store.sites) > 1:
            raise UserError(
                f"layer: which one? {activations} holds {', '.join(map(str, store.sites))}"
            )
        width = store.width
    else:
        width = DictionaryConfig(**shared).width
    return study.sweep(
        shared,
        width=width,
        arms=tuple(study.ARMS) if arms == "all" else tuple(arms.split(",")),
        seeds=_seeds(seeds),
        target_l0s=targets,
        **pushes,
    )


def _seeds(text: str) -> list[int]:
    numbers = _numbers("seeds", text, int)
    if "," in text and numbers:
        return numbers
    from cutaway.sweeps.grid import MOST_RUNS

    if not numbers or not 1 <= numbers[0] <= MOST_RUNS:
        raise UserError(f"seeds = {text}: expected 1 to {MOST_RUNS:,}, or a list as in 10,11,12")
    return list(range(numbers[0]))


def _numbers(name: str, text: str, kind: type) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(
            f"{name} = {text!r}: expected numbers with commas between, as in 4,8"
        ) from None
