"""`cutaway probe train|eval`: probes on every layer, judged beside controls."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from cutaway.base import display
from cutaway.base.errors import UserError
from cutaway.cli.common import Flag, fresh_folder, output_format

if TYPE_CHECKING:
    from cutaway.runs.folder import Run

Settings = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]
_COLUMNS = (
    *("site", "balanced_accuracy_even", "low", "high", "recall_even", "specificity_even"),
    *(
        "recall_natural",
        "precision_natural",
        "f1_natural",
        "auroc",
        "average_precision",
        "strength",
    ),
)
_CONTROL_COLUMNS = ("control", "site", "balanced_accuracy_even", "low", "high", "selectivity")


def train(
    model: Annotated[
        str | None, Parameter(name=["--model", "--model-name"], allow_leading_hyphen=True)
    ] = None,
    *settings: Settings,
    data: str | None = None,
    layers: Annotated[str | None, Parameter(name=["--layers", "--layer", "--layer-sweep"])] = None,
    out: Annotated[Path | None, Parameter(name=["--out", "--output-dir"])] = None,
    predict_current: Flag = False,
    model_dtype: Annotated[str | None, Parameter(name=["--model-dtype", "--dtype"])] = None,
    no_wandb: Flag = False,
    config: Path | None = None,
    resume: Flag = False,
    json: bool = False,
    csv: bool = False,
) -> None:
    """Fit a probe at every layer asked for and judge it beside controls.

    Args:
        model: A run, a folder in Hugging Face's layout, a GGUF file, or a hub id.
        settings: Fields of the probe's config, as --field value (`cutaway train --help`).
        data: The folder `cutaway probe data` made.
        layers: auto (first, quartiles, last), all, or 0,5,11, mlp.3, ... [auto]
        out: The run's folder; without it a fresh one under runs/.
        predict_current: Read the target token itself, not the one before: a check, near 99 %.
        model_dtype: auto, float32 or bfloat16; float16 is refused.
        no_wandb: Keep Weights & Biases out, whatever the settings say.
        config: A YAML file or preset of settings (`cutaway presets`).
        resume: Go on with the run in --out that was stopped.
        json: Print JSON: layers and controls.
        csv: Print CSV: a row per layer.
    """
    from cutaway.probes.train.run import STUDY, judged, train_probes
    from cutaway.studies.asked import asked_for
    from cutaway.studies.settings import overrides

    format = output_format(json, csv)
    if model is not None and model.startswith("--"):
        # a setting: the model is named by --config or --resume
        model, settings = None, (model, *settings)
    given = overrides(settings)
    named = {"model": model, "data": data, "layers": layers, "dtype": model_dtype}
    given |= {name: value for name, value in named.items() if value is not None}
    if predict_current:
        given["task"] = "current"
    if "wandb_project" in given or "wandb_group" in given:
        given.setdefault("wandb", "online")
    if no_wandb:
        given["wandb"] = "off"
    if resume and out is None:
        raise UserError("--resume: say which run to go on with, with --out FOLDER")
    goes_on = out if resume else None
    asked = asked_for(config, given, study=STUDY, called="probes", run=goes_on)
    _choose_method(asked.changes, asked.values)
    for name in ("model", "data"):
        if name not in asked.changes and name not in asked.values:
            what = "a MODEL" if name == "model" else "the folder of `cutaway probe data`, --data"
            raise UserError(f"probe train: {name} is missing: give {what}")
    settled = asked.config()
    done = resume and judged(out)
    if out is not None:
        run = train_probes(settled, out, resume=resume)
    else:
        with fresh_folder("probes") as folder:
            run = train_probes(settled, folder)
    _show(run, format)
    if not done and format != "json":
        display.notice(f"wrote {run.path}")


def evaluate(
    probes: Path,
    *,
    data: Annotated[str | None, Parameter(name=["--data", "--text-file"])] = None,
    model: str | None = None,
    part: str | None = None,
    tokens: str = "100k",
    label: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    json: bool = False,
    csv: bool = False,
) -> None:
    """Judge probes on text they were not trained on; text they were trained on is recognised.

    Args:
        probes: A run of `cutaway probe train`, or a probe's folder.
        data: A folder of probe data; a text source or file (for probes of a token, which every text
            labels itself); labelled texts or CoNLL words (for others) [documents that the probes'
            training did not see, where these can be found; else docstrings].
        model: The model they are of, where it is not where it was.
        part: Of a folder of probe data (without --data the probes' own): train, validation, test or
            all [test].
        tokens: How many tokens of a text.
        label: Of CoNLL words: the entity type.
        text_column: Of a table of labelled texts: its column of texts [text].
        label_column: Its column of labels [label].
        json: Print JSON.
        csv: Print CSV.
    """
    from cutaway.activations.config import count
    from cutaway.labelled.tables import Columns
    from cutaway.probes.other_data.evaluating import evaluate as judged
    from cutaway.probes.other_data.evaluating import examples_for, own_data
    from cutaway.probes.other_data.familiar import familiar_line, share_in_training
    from cutaway.probes.other_data.held_out import trained_on
    from cutaway.probes.scores.findings import DECISIONS
    from cutaway.probes.view.reading import model_of, open_probes

    format = output_format(json, csv)
    found = open_probes(probes)
    network = model_of(found, model)
    named = data is not None
    if data is None:
        data = own_data(found, probes, part=part)
    elif trained_on(probes, data):
        display.notice(f"{data}: documents the probes were trained on are among it")
    of_table = {"text": text_column, "label": label_column}
    columns = Columns(**{name: one for name, one in of_table.items() if one is not None})
    examples = examples_for(
        found,
        network,
        data,
        part=part,
        tokens=count(tokens),
        label=label,
        columns=None if columns == Columns() else columns,
    )
    met = share_in_training(probes, found[0].about, examples)
    # a score that is not defined, such as the precision of a class never predicted, is missing
    weights = network.reference.dequantised
    beside = {"in_training": met, **({"weights": weights} if weights else {})}
    rows = display.finite([{**row, **beside} for row in judged(found, network, examples)])
    if (named or met is not None) and (line := familiar_line(met)):
        display.notice(line)
    shown = None
    if format == "table":
        shown = [one for one in _COLUMNS if one != "strength"]
        shown += ["in_training"] if met is None or met > 0 else []
        shown += ["weights"] if weights else []
    display.show(rows, format, columns=shown)
    if format == "table":
        display.notice(DECISIONS)
        positive = found[0].about.classes[-1]
        share = float((examples.label == len(found[0].about.classes) - 1).float().mean())
        display.notice(f"{len(examples):,} examples, {share:.1%} {positive!r}")


def _choose_method(given: dict[str, Any], file: dict[str, Any]) -> None:
    """Settings of the loop ask for training in minibatches; UserError where another method is named."""
    from cutaway.probes.train.run import OF_THE_LOOP

    named = [name for name in OF_THE_LOOP if name in given]
    method = given.get("method") or file.get("method")
    if not named:
        return
    if method is None:
        given["method"] = "mlp" if "mlp_width" in given else "minibatch"
        display.notice(f"{', '.join(named)}: training in minibatches (method = {given['method']})")
    elif method in ("exact", "mass_mean"):
        raise UserError(
            f"{named[0]} = {given[named[0]]}: method {method!r} is solved, not trained in steps; "
            "leave it out, or take --method minibatch or mlp"
        )


def _show(run: Run, format: Any) -> None:
    from cutaway.nets.quantised import dequantised
    from cutaway.probes.scores.findings import DECISIONS, named

    tables = {}
    for name in ("layers", "controls"):
        rows = run.read(name)
        tables[name] = [] if rows is None else display.finite(list(map(named, rows.to_pylist())))
    of = run.record.parents[0] if run.record.parents else {}
    weights = dequantised(of.get("quantisation"))
    if weights:
        tables = {
            name: [row | {"weights": weights} for row in rows] for name, rows in tables.items()
        }
    layers, controls = tables.values()
    if format == "json":
        print(dumps(tables, indent=2))
        return
    columns = [*_COLUMNS, *(["weights"] if weights else [])]
    display.show(layers, format, columns=columns if format == "table" else None)
    if format == "table":
        if controls:
            display.show(controls, format, columns=_CONTROL_COLUMNS, title="controls")
        display.notice(DECISIONS)
