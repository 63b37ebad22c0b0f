"""Pictures of what a grokking run has learned: spectra, progress measures, routing.

They need a run's own checkpoints or tables, and return None for a history recorded by others, a
run that kept no checkpoint, and an operation without a circle where the picture needs one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.figures.categories import category_maps
from cutaway.figures.curves import Series, curves
from cutaway.figures.heatmap import heatmap
from cutaway.figures.recorded import Log, spread_steps
from cutaway.figures.spikes import spikes

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

    from cutaway.nets.reference import LoadedModel

_FAINTEST = 1e-6  # of the largest power: what is drawn as nothing
_FEW_KEYS = 15


def progress(log: Log) -> Figure | None:
    """Restricted, excluded, training and test loss over the run's kept checkpoints."""
    from cutaway.grokking.progress import progress_measures

    if _kept(log) < 2:
        return None
    try:
        table = progress_measures(log.path)
    except UserError as error:
        notice(f"{log.name}: no progress measures: {error}")
        return None
    return progress_curves(table, title=log.name)


def progress_curves(table: pa.Table, *, title: str | None = None) -> Figure:
    """The losses of a table of `progress_measures` over its steps, logarithmic as these where there
    are eight above 0 or more."""
    steps = table["step"].to_numpy()
    if not (steps > 0).any():
        raise UserError("nothing to draw: progress measures of step 0 only")
    log_x = spread_steps(table, ["restricted_loss"])
    shown = steps > 0 if log_x else steps >= 0
    names = {
        "restricted (key frequencies only)": "restricted_loss",
        "excluded (without them)": "excluded_loss",
        "training": "train_loss",
        "test": "test_loss",
    }
    series = [
        Series(words, steps[shown], table[column].to_numpy()[shown])
        for words, column in names.items()
    ]
    keys = table["key_frequencies"][0].as_py()
    about = f"key frequencies {', '.join(map(str, keys))}" if keys else "no key frequencies"
    return curves(
        series,
        x_label="step",
        y_label="cross-entropy (nats)",
        log_x=log_x,
        log_y=True,
        title=f"{title}: {about}" if title else about.capitalize(),
        width="page",
    )


def embedding_spectrum(log: Log) -> Figure | None:
    """Fourier norms of the last checkpoint's embedding by frequency, key frequencies marked."""
    loaded = _last(log)
    if loaded is None:
        return None
    from cutaway.grokking.group import residues
    from cutaway.grokking.progress import key_frequencies, logits_table
    from cutaway.grokking.spectrum import embedding_spectrum as norms_of
    from cutaway.grokking.spectrum import residue_embedding

    operation, p = loaded.config["operation"], loaded.model.config.p
    order = residues(operation, p)
    norms = norms_of(residue_embedding(loaded.model)[order]).tolist()
    try:
        keys = key_frequencies(logits_table(loaded), operation)
    except UserError:  # the operation has no circle
        keys = []
    of = "frequency k" if len(order) == p else "frequency k over the discrete logarithm"
    return spikes(
        range(1, len(norms)),
        norms[1:],
        x_label=of,
        y_label="norm of the embedding's component",
        # a network that has not grokked has nearly all of them: then none stands out
        marked=keys if len(keys) <= _FEW_KEYS else (),
        mark_label="key frequencies of the logits",
        title=f"{log.name}: embedding at step {loaded.step:,}",
        width="page",
    )


def output_spectrum(log: Log) -> Figure | None:
    """2-D power of the last checkpoint's output table by frequency, the constant left out."""
    loaded = _last(log)
    if loaded is None:
        return None
    import torch

    from cutaway.grokking.group import in_order
    from cutaway.grokking.progress import logits_table
    from cutaway.grokking.spectrum import output_power

    table = in_order(logits_table(loaded), loaded.config["operation"]).double()
    power = torch.fft.fftshift(output_power(table))
    return power_map(
        power.numpy(),
        logarithms=len(table) != loaded.model.config.p,
        title=f"{log.name}: logits at step {loaded.step:,}",
    )


def power_map(power: np.ndarray, *, logarithms: bool = False, title: str | None = None) -> Figure:
    """Power (n, n) by (k_a, k_b), the constant in the middle, as colours that step with the
    logarithm; shares below a millionth of the largest are drawn as that."""
    n = len(power)
    frequencies = np.arange(n) - n // 2
    shares = np.array(power, dtype=float)
    shares[n // 2, n // 2] = np.nan
    total = np.nansum(shares)
    if total > 0:
        shares = shares / total
        shares = np.maximum(shares, _FAINTEST * np.nanmax(shares))
    of = "log " if logarithms else ""
    return heatmap(
        shares[::-1],
        [_signed(k) for k in frequencies[::-1]],
        [_signed(k) for k in frequencies],
        x_label=f"frequency over {of}b",
        y_label=f"frequency over {of}a",
        value_label="share of the power, all classes",
        title=title,
        log=True,
        square=True,
        missing="the constant, left out",
    )


def routing(log: Log) -> Figure | None:
    """The head with the largest weight for each pair (a, b), at the last recorded step."""
    from cutaway.runs import table as tables

    found = tables.read(log.path, "routing") if log.path.is_dir() else None
    if found is None or not len(found):
        return None
    return routing_maps(found, title=log.name)


def routing_maps(table: pa.Table, *, title: str | None = None) -> Figure:
    """Heat maps of the dominant head over (a, b), one for each layer, of the table's last step."""
    import pyarrow.compute as pc

    step = pc.max(table["step"]).as_py()
    last = table.filter(pc.equal(table["step"], step))
    a, b, layers = (last[name].to_numpy() for name in ("a", "b", "layer"))
    size = int(max(a.max(), b.max())) + 1
    heads = sum(name.startswith("weight_") for name in table.column_names)
    maps = {}
    for layer in np.unique(layers):
        chosen = layers == layer
        shown = np.full((size, size), -1)
        shown[b[chosen], a[chosen]] = last["dominant"].to_numpy()[chosen]
        maps[f"layer {layer}"] = shown
    return category_maps(
        maps,
        [f"head {head}" for head in range(heads)],
        x_label="a",
        y_label="b",
        title=f"{title}: dominant head at step {step:,}"
        if title
        else f"Dominant head at step {step:,}",
    )


def _kept(log: Log) -> int:
    """How many checkpoints a run keeps; 0 for another's file."""
    from cutaway.runs import Run
    from cutaway.runs.record import FILE

    if not (log.path / FILE).exists():
        return 0
    return len(Run.open(log.path).checkpoints.steps())


def _last(log: Log) -> LoadedModel | None:
    """The network of the run's last checkpoint, on the CPU, where there is one."""
    if not _kept(log):
        return None
    from cutaway.nets.reference import load

    try:
        return load(log.path, step="last", device="cpu")
    except UserError as error:  # every checkpoint is damaged: other pictures may still be drawn
        notice(f"{log.name}: no spectra: {error}")
        return None


def _signed(k: int) -> str:
    return f"{k}".replace("-", "−")
