"""A finished dictionary of synthetic states, judged on fresh ones against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cutaway.base.errors import UserError
from cutaway.dictionaries.model.dictionary import Dictionary
from cutaway.dictionaries.model.reconstruction import Reconstruction
from cutaway.dictionaries.synthetic.stream import SyntheticStream
from cutaway.dictionaries.synthetic.truth import truth_from
from cutaway.evaluations.baselines import PCA, Coder, Learned, RandomDictionary, sample_of
from cutaway.evaluations.evaluate import DENSITY_EDGES, Evaluation, threshold_movement
from cutaway.evaluations.known_truth.measures import Comparison, recovery
from cutaway.evaluations.missing import OF_NO_MODEL
from cutaway.nets.check import NEXT_TOKEN, OF_LOGITS

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH = 4096
_FITTED = 16  # batches of training states the baselines see
_FIELDS = ("l0", "explained_variance", "normalised_mse", "cosine")


@torch.no_grad()
def judge_synthetic(
    dictionary: Dictionary, folder: Path, *, tokens: int, history: pa.Table | None = None
) -> Evaluation:
    """Evaluate on `tokens` states that neither trained it nor chose its checkpoint.

    Beside what any dictionary's evaluation says of reconstructions (there is no text and no
    cross-entropy), `ground_truth` has the figures of `measures.Comparison`; baselines are fitted
    on training states. Kept in `folder`.
    """
    if tokens < 1:
        raise UserError(f"tokens = {tokens}: expected 1 or more")
    settings = dict(dictionary.metadata["synthetic"])
    seed = settings.pop("data_seed", 0)
    truth = truth_from(settings)
    shape, device = dictionary.shape, dictionary.decoder_weight.device
    if truth.width != shape.d_model:
        raise UserError(
            f"{folder}: d_model = {shape.d_model}, and its synthetic states are {truth.width} wide"
        )
    own, compared = Learned(dictionary), Comparison(dictionary.decoder_weight, truth)
    whole = Reconstruction(shape.d_model, shape.d_hidden)
    held = []
    stream = SyntheticStream(truth, min(_BATCH, tokens), seed=seed, part="test")
    for index in range(-(-tokens // stream.batch_size)):
        left = tokens - index * stream.batch_size
        x, amplitudes = (one[:left].to(device) for one in stream.labelled(index))
        held.append(x)
        reconstruction, codes = own(x)
        whole.add(x, reconstruction, codes)
        compared.add(dictionary.encode(x), amplitudes)
    figures, density = whole.figures(), whole.density().numpy()
    train = SyntheticStream(truth, _BATCH, seed=seed)
    sample = sample_of((train.batch(index) for index in range(_FITTED)), device)
    k = max(1, round(figures["l0"]))
    coders: dict[str, Coder] = {"pca": PCA(sample, k)}
    for name, scaled in (("random", False), ("random_scaled", True)):
        coders[name] = RandomDictionary(sample, shape.d_hidden, k, scaled=scaled)
    baselines: dict[str, dict[str, Any]] = {}
    for name, coder in coders.items():
        score = Reconstruction(shape.d_model, coder.features)
        for x in held:
            score.add(x, *coder(x))
        baselines[name] = {key: score.figures()[key] for key in _FIELDS}
        if isinstance(coder, RandomDictionary):
            directions = truth.directions().to(device)
            baselines[name]["mmcs"] = recovery(coder.dictionary.decoder_weight, directions)[0]
    nan = float("nan")
    found = Evaluation(
        site=truth.kind,
        architecture=shape.architecture,
        d_hidden=shape.d_hidden,
        tokens=tokens,
        dead_tokens=tokens,
        **{name: figures[name] for name in (*_FIELDS, "dead_share")},
        explained_variance_with_first=figures["explained_variance"],
        **dict.fromkeys((*NEXT_TOKEN, *OF_LOGITS), nan),
        left_out=dict.fromkeys((*NEXT_TOKEN, *OF_LOGITS), OF_NO_MODEL),
        density_counts=np.histogram(density[density > 0], np.array(DENSITY_EDGES))[0].tolist(),
        threshold=None if history is None else threshold_movement(history),
        baselines=baselines,
        held_out=True,
        ground_truth=compared.figures(),
    ).with_reasons()
    found.save(folder)
    return found
