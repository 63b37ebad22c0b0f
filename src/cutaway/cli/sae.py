"""`cutaway sae train|pipeline|eval`: sparse dictionaries of hidden states, made and judged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from cutaway.base import display, files
from cutaway.base.errors import RunFailed, UserError
from cutaway.cli.common import Flag, output_format

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cutaway.evaluations.evaluate import Evaluation
    from cutaway.nets.sites import Site

Settings = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]
_TOKENS = "20k"
_EVALUATIONS = ("evaluation.json", "evaluation.csv", "suite.parquet", "features.json")


def train(
    activations: Path,
    *settings: Settings,
    out: Path | None = None,
    layers: str = "all",
    config: Path | None = None,
    resume: Flag = False,
    json: bool = False,
    csv: bool = False,
) -> None:
    """Train a dictionary for each layer of a store of hidden states.

    Args:
        activations: The folder `cutaway extract` made.
        settings: Fields of the dictionary's config, as --field value (`cutaway train --help`).
        out: Where the dictionaries go, one folder per site.
        layers: all the store has, or 0,6,11, mlp.3, ...
        config: A YAML file or preset of settings (`cutaway presets`).
        resume: Go on with what was stopped; what is done is skipped.
        json: Print JSON.
        csv: Print CSV.
    """
    from cutaway.activations.store import ActivationStore
    from cutaway.workbench.pipeline import chosen, require_begun, require_place, train_layers

    format = output_format(json, csv)
    if out is None:
        raise UserError("sae train: say where to, with --out FOLDER")
    require_place(out)
    store = ActivationStore(activations)
    asked = dictionary_settings(settings, config)
    if resume:
        require_begun(out, asked)
    folders = train_layers(store, out, layers, asked, resume=resume)
    display.show(_verdicts(folders), format)
    _require_all(out, chosen(store, layers), folders)


def pipeline(
    model: str,
    *settings: Settings,
    out: Annotated[Path | None, Parameter(name=["--out", "--save-dir"])] = None,
    data: str | None = None,
    layers: str | None = None,
    tokens: Annotated[str | None, Parameter(name=["--tokens", "--num-tokens"])] = None,
    config: Path | None = None,
    extract_only: Flag = False,
    train_only: Flag = False,
    cache_dir: Annotated[Path | None, Parameter(name=["--activations", "--cache-dir"])] = None,
    batch_size_extract: int | None = None,
    store_dtype: str | None = None,
    context_length: int | None = None,
    bos: Annotated[bool | None, Parameter(negative="--no-bos")] = None,
    separator: str | None = None,
    chat: Flag = False,
    reply_only: Flag = False,
    device: str | None = None,
    resume: Flag = False,
    json: bool = False,
    csv: bool = False,
) -> None:
    """From a model to features one can read: extract, train per layer, evaluate, write pages.

    Args:
        model: A run, a folder in Hugging Face layout, a GGUF file, or a Hugging Face id.
        settings: Fields of the dictionary's config, as --field value (`cutaway train --help`).
        out: Where everything goes.
        data: Text: a source by name, a file or a folder (`cutaway corpus ls`) [docstrings].
        layers: all, or sites: 0,6,11, embed, mlp.3, ... [all]
        tokens: How many tokens of text: 500k, 10M [1M].
        config: A YAML file or preset of settings (`cutaway presets`).
        extract_only: Only write the hidden states.
        train_only: Only train, evaluate and read, from the hidden states in OUT (or --activations).
        cache_dir: Where the hidden states are or go [OUT/activations].
        batch_size_extract: Contexts in a forward pass [8].
        store_dtype: What the store keeps: float32, bfloat16 or int8.
        context_length: Tokens in a context [what the model reads, at most 1024].
        bos: Special tokens around contexts: BOS, or none with --no-bos [the tokenizer's own].
        separator: Between documents: bos, eos, both, none or auto [auto].
        chat: The data are conversations, read with the model's chat template.
        reply_only: Learn from the states of replies only.
        device: auto, cpu, cuda, cuda:N or mps.
        resume: Go on with what was stopped, as it was begun; what is done is skipped.
        json: Print JSON.
        csv: Print CSV.
    """
    from cutaway.activations.config import count
    from cutaway.activations.store import ActivationStore
    from cutaway.workbench import pipeline as steps

    format = output_format(json, csv)
    if out is None:
        raise UserError("sae pipeline: say where to, with --out FOLDER")
    if extract_only and train_only:
        raise UserError("--extract-only and --train-only: choose one")
    steps.require_place(out)
    asked_settings = dictionary_settings(settings, config)
    if device is not None:
        asked_settings["device"] = device
    given = {
        "data": data,
        "layers": layers,
        "tokens": None if tokens is None else count(tokens),
        "batch_size": batch_size_extract,
        "store_dtype": store_dtype,
        "context_length": context_length,
        "bos": bos,
        "separator": separator,
        "chat": chat or None,
        "reply_only": reply_only or None,
        "device": device,
    }
    extraction = {name: value for name, value in given.items() if value is not None}
    if batch_size_extract is not None and batch_size_extract < 1:
        raise UserError(f"batch_size_extract = {batch_size_extract}: expected 1 or more")
    place = cache_dir or out / steps.STORE
    if resume:
        steps.require_begun(out, asked_settings, None if train_only else place)
    if not train_only:
        asked = {"model": model, **extraction}
        store = steps.extracted(place, asked, asked_settings, resume=resume)
        if extract_only:
            about = {"store": str(place), "rows": store.rows, "width": store.width}
            display.show([{"site": str(site), **about} for site in store.sites], format)
            return
    store = ActivationStore(place)
    if train_only:
        steps.model_of(store, model, device=device or "auto")
    layers = layers or "all"
    folders = steps.train_layers(store, out, layers, asked_settings, resume=resume)
    evaluations = steps.judge_layers(store, out, layers, device=device or "auto")
    _tell(evaluations, format)
    if format == "table":
        display.show(_verdicts([out / one.site for one in evaluations]))
        print(
            f"open {out}/figures/layers.png and {out}/{evaluations[-1].site}/features/features.html"
        )
    _require_all(out, steps.chosen(store, layers), folders)


def evaluate(
    *dictionaries: Path,
    model: str | None = None,
    data: str | None = None,
    activations: Path | None = None,
    site: str | None = None,
    tokens: str = _TOKENS,
    suite: str | None = None,
    tasks: list[str] | None = None,
    crossed: list[Path] | None = None,
    words: str | None = None,
    template: str | None = None,
    seeds: int = 1,
    out: Path | None = None,
    json: bool = False,
    csv: bool = False,
) -> None:
    """What dictionaries are worth on held-out text, beside PCA and a random dictionary.

    Figures of a dictionary's own held-out text are kept beside it; others only in --out.

    Args:
        dictionaries: Runs of dictionaries, or folders of saved or foreign ones.
        model: The model they are of [the one they were trained on].
        data: Text to judge on [the held-out part of what they were trained on].
        activations: A store to judge on the last part of [the one they were trained on].
        site: Where in the model they were trained, for files that do not say: residual.6, mlp.3.
        tokens: How many tokens of it.
        suite: Evaluations on labelled texts instead: all, or some of sparse-probing, absorption,
            tpp, scr.
        tasks: Labelled texts: docstrings, a folder with a part per class, a table with text and
            label, or a CoNLL file; may be given several times [docstrings].
        crossed: Tables with text, label and second_label, for scr.
        words: Words for absorption: a file with one a line, or all for the whole vocabulary
            [the vocabulary, at most 5,000 of it in prompts].
        template: The prompt of absorption, as "{word} has the first letter:", shown after ten
            words with their letters, or none for the word alone [that prompt for models of 512
            dimensions or more that read 256 tokens; none for smaller ones].
        seeds: How many seeds of split and draw.
        out: Write evaluation.json, evaluation.csv (or suite.parquet) and figures/ there.
        json: Print JSON.
        csv: Print CSV.
    """
    from cutaway.activations.config import count
    from cutaway.runs import checksums, places
    from cutaway.workbench import session as using
    from cutaway.workbench.pipeline import target_of, write_summary

    format = output_format(json, csv)
    if not dictionaries:
        raise UserError("sae eval: name a dictionary, a run's or a saved one's folder")
    if out is not None:
        places.require_output(out, "evaluations", _EVALUATIONS, mine=_holds_evaluations)
        files.require_writable(out)
    if suite is not None:
        if site is not None:
            raise UserError(
                "--site: not with --suite; `cutaway sae export --site` writes a copy that says it"
            )
        for name, value in (("data", data), ("activations", activations), ("tokens", tokens)):
            if value not in (None, _TOKENS):
                raise UserError(
                    f"--{name}: not with --suite, which judges on labelled texts: name them with --tasks"
                )
        from cutaway.cli.sae_suite import evaluate_suite

        evaluate_suite(
            *(dictionaries, suite),
            model=model,
            tasks=tasks,
            crossed=crossed,
            words=words,
            template=template,
            seeds=seeds,
            out=out,
            format=format,
        )
        return
    for name, value in (
        ("tasks", tasks),
        ("crossed", crossed),
        ("words", words),
        ("template", template),
        ("seeds", seeds if seeds != 1 else None),
    ):
        if value is not None:
            raise UserError(f"--{name}: only with --suite, which says what to do with it")
    named = {"model": model, "data": data, "activations": activations, "site": site}
    each = using.sessions(dictionaries, **named)
    for one in each[1:]:  # a mistake in the last is told before the first is judged
        one.check()
    evaluations = [one.evaluation(count(tokens)) for one in each]
    _tell(evaluations, format)
    if out is None and any(one.held_out is not True for one in evaluations):
        display.notice("figures of other text than the dictionary's own are kept with --out FOLDER")
    if out is not None:
        using.keep(evaluations, dictionaries, out)
        target = target_of([using.home(one) for one in dictionaries])
        for path in write_summary(evaluations, out, target):
            display.notice(f"wrote {path}")
        checksums.finish(out)


def dictionary_settings(tokens: tuple[str, ...], config: Path | None) -> dict[str, Any]:
    """What a file or preset says and, above it, the command line."""
    from cutaway.studies.asked import asked_for
    from cutaway.studies.settings import overrides

    asked = asked_for(config, overrides(tokens), study="dictionary", called="dictionaries")
    asked.config()  # a mistake is told before anything slow
    return {**asked.values, **asked.changes}


def _holds_evaluations(folder: Path) -> bool:
    """Whether a folder has those of several dictionaries, each in one of its own."""
    return any(next(folder.glob(f"*/{name}"), None) for name in _EVALUATIONS)


def _require_all(out: Path, sites: Sequence[Site], folders: Sequence[Path]) -> None:
    """End as failed where a site has no finished dictionary."""
    there = {folder.name for folder in folders}
    if missing := [str(site) for site in sites if str(site) not in there]:
        raise RunFailed(
            f"{out}: {len(missing)} of {len(sites)} dictionaries did not come to their end "
            f"({', '.join(missing)})"
        )


def _tell(evaluations: list[Evaluation], format: display.Format) -> None:
    from cutaway.evaluations.evaluate import left_out, table

    if format == "json":
        display.show([one.to_json() for one in evaluations], format)
        return
    display.show(table(evaluations), format)
    for line in left_out(evaluations):
        (print if format == "table" else display.notice)(line)


def _verdicts(folders: list[Path]) -> list[dict[str, Any]]:
    """Each dictionary's targets, and whether its best checkpoint, the one loaded, meets them."""
    from cutaway.dictionaries.training.advice import judged, verdict
    from cutaway.dictionaries.training.config import DictionaryConfig
    from cutaway.runs.folder import Run

    rows = []
    for folder in folders:
        run = Run.open(folder)
        config = DictionaryConfig(**run.record.resolved["settings"])
        history = run.read("history")
        seen = None if history is None else judged(history, run.checkpoints.best())
        for one in verdict(seen, config) if seen is not None else ():
            rows.append(
                {
                    "dictionary": folder.name,
                    "target": one.what,
                    "asked": one.asked,
                    "seen": one.seen,
                    "met": "yes" if one.met else "no",
                    "step": seen["step"],
                    "last_step": run.record.steps_done,
                }
            )
    return rows
