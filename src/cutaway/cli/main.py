"""The command tree. Commands are named as strings, so that `--help` loads neither torch nor rooms."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter, UnknownCommandError

import cutaway
from cutaway.base import display, environment, signals
from cutaway.base.errors import CutawayError, Interrupted, UserError, begun, nearest, shortened
from cutaway.cli.unexpected import LONGEST_LINE, in_one_line, within_bounds, wrong_value

_EVERY = "Every command: --quiet shows results only, --debug shows tracebacks."
_FIELDS = (
    "Any field of a dictionary: --target-l0 8, --architecture topk, --d-hidden 1024, --epochs 10, ... "
    f"(`cutaway train --help` lists them, under `dictionary`).\n\n{_EVERY}"
)

_PROBE_FIELDS = (
    "Any field of the probes' config: --method exact|mass_mean|minibatch|mlp, --strengths 0.01,1, "
    "--controls none, --pos-weight-cap 5, --seed 0, --device cpu; trained by steps: --epochs 10, "
    "--learning-rate 1e-3, --batch-size 64, --weight-decay 1e-4, --mlp-width 128, --wandb-project NAME, "
    "--wandb-group NAME, ... (`cutaway train --help` lists them, under `probe`).\n\n" + _EVERY
)

app = App(
    name="cutaway",
    help="A workbench for looking inside neural networks while they learn.",
    version=cutaway.__version__,
    help_epilogue=_EVERY,
    default_parameter=Parameter(validator=within_bounds),
    suppress_keyboard_interrupt=False,  # `run` says which signal it was, also by the exit code
)

# name, place, help: one line for the overview; the command's own docstring has the rest
COMMANDS: list[tuple[str, str, str]] = [
    ("tour", "cutaway.cli.tour:tour", "The whole story on an embedded corpus, in minutes."),
    ("train", "cutaway.cli.train:app", "Train anything: a preset or a YAML file."),
    ("sweep", "cutaway.cli.sweep:app", "Train many runs: every combination of settings."),
    ("presets", "cutaway.cli.train:presets", "List the presets, or print one's settings."),
    ("params", "cutaway.cli.params:params", "Parameters per component; configurations of a size."),
    ("plot", "cutaway.cli.plot:plot", "Pictures of one run or many."),
    ("words", "cutaway.cli.language:words", "Words by sense."),
    ("senses", "cutaway.cli.language:senses", "A word's senses: read and change them."),
    ("sample", "cutaway.cli.language:sample", "Sample text from a run."),
    ("export", "cutaway.cli.export:export", "Hand a run's model on to other libraries."),
    ("extract", "cutaway.cli.extract:extract", "Hidden states of a model to a store on disk."),
]
GROUPS: list[tuple[str, str, list[tuple[str, str, str]]]] = [
    (
        "corpus",
        "Text sources.",
        [
            ("ls", "cutaway.cli.corpus:ls", "Which sources there are."),
            ("show", "cutaway.cli.corpus:show", "Size, sample and token counts of one."),
        ],
    ),
    (
        "sae",
        "Sparse dictionaries of hidden states.",
        [
            ("pipeline", "cutaway.cli.sae:pipeline", "From a model to features one can read."),
            ("train", "cutaway.cli.sae:train", "A dictionary per layer of a store."),
            ("eval", "cutaway.cli.sae:evaluate", "What dictionaries are worth, beside baselines."),
            (
                "features",
                "cutaway.cli.sae_features:features",
                "Read every feature; a page to search.",
            ),
            ("study", "cutaway.cli.sae_study:study", "Arms over seeds, judged side by side."),
            (
                "effect",
                "cutaway.cli.sae_features:effect",
                "Switch a feature off, or steer with it.",
            ),
            (
                "export",
                "cutaway.cli.sae_features:export",
                "Hand a dictionary on to other libraries.",
            ),
        ],
    ),
    (
        "probe",
        "Linear probes on every layer, with controls.",
        [
            ("data", "cutaway.cli.probe_data:data", "Examples to probe, from text or labels."),
            ("inspect", "cutaway.cli.probe_data:inspect", "Look at examples before training."),
            ("train", "cutaway.cli.probe:train", "Every layer at once, judged beside controls."),
            ("eval", "cutaway.cli.probe:evaluate", "Judge probes on other data."),
            ("view", "cutaway.cli.probe_view:view", "A page of text, coloured by probes."),
        ],
    ),
    (
        "runs",
        "The store of runs.",
        [
            ("ls", "cutaway.cli.runs:ls", "List the runs in a folder."),
            ("show", "cutaway.cli.runs:show", "All about one run."),
            ("sql", "cutaway.cli.runs:sql", "Ask all runs in SQL."),
            ("compare", "cutaway.cli.runs:compare", "What differs between runs."),
            ("phases", "cutaway.cli.runs_phases:phases", "When runs memorised and grokked."),
            (
                "import",
                "cutaway.cli.runs_import:import_",
                "Make runs of histories recorded by others.",
            ),
            ("verify", "cutaway.cli.runs:verify", "Check a run's files against their checksums."),
            ("rm", "cutaway.cli.runs:rm", "Delete runs."),
        ],
    ),
]

# what stands below the options in a command's help
EPILOGUES = {
    "cutaway.cli.sae:pipeline": _FIELDS,
    "cutaway.cli.sae:train": _FIELDS,
    "cutaway.cli.probe:train": _PROBE_FIELDS,
}

for _name, _place, _help in COMMANDS:
    app.command(_place, name=_name, help=_help)
for _name, _help, _commands in GROUPS:
    _group = App(name=_name, help=_help)
    for _command, _place, _line in _commands:
        _more = {"help_epilogue": EPILOGUES[_place]} if _place in EPILOGUES else {}
        _group.command(_place, name=_command, help=_line, **_more)
    app.command(_group)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code. Errors are one line unless `--debug`."""
    debug = "--debug" in arguments
    before, before_begun = display.quiet.set("--quiet" in arguments), begun.set(False)
    try:
        return _run([one for one in arguments if one not in ("--debug", "--quiet")], debug)
    finally:
        display.quiet.reset(before)
        begun.reset(before_begun)


def _run(arguments: Sequence[str], debug: bool) -> int:
    try:
        with signals.interruptible():
            app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CutawayError as error:
        return _complain(str(error), error.exit_code, debug)
    except CycloptsError as error:
        return _complain(_one_line(error), 2, debug)
    except KeyboardInterrupt as stopped:
        number = signals.number_of(stopped)
        return _complain(f"stopped by {Interrupted('', number).name}", 128 + number, debug)
    except BrokenPipeError:  # the reader of our output has gone: `cutaway runs ls | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        code = CutawayError.exit_code if begun.get() else UserError.exit_code
        return _complain(in_one_line(error), code, debug)
    return 0


def _complain(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"cutaway: {shortened(display.printable(message), LONGEST_LINE)}", file=sys.stderr)
    return code


def _one_line(error: CycloptsError) -> str:
    if isinstance(error, UnknownCommandError):  # cyclopts would load every command to suggest one
        word = (error.unused_tokens or [""])[0]
        groups = {name: [one for one, *_ in commands] for name, _, commands in GROUPS}
        within = next((name for name in error.command_chain or () if name in groups), None)
        known = groups[within] if within else [one for one, *_ in COMMANDS] + list(groups)
        return f"no command {word!r}{nearest(word, known) or '; cutaway --help lists them'}"
    return wrong_value(error) or " ".join(str(error).split())


def main() -> None:
    """The console script. What a terminal's encoding lacks is printed as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    environment.tidy()
    sys.exit(run(sys.argv[1:]))
