"""The dictionary study: from settings and hidden states to a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from cutaway.activations.model_stream import ModelStream
from cutaway.activations.store import MANIFEST, ActivationStore
from cutaway.activations.stream import ActivationStream
from cutaway.base import hardware
from cutaway.base.errors import UserError
from cutaway.dictionaries.advice import advice
from cutaway.dictionaries.base import DictionaryShape
from cutaway.dictionaries.config import FIXED_L0, DictionaryConfig
from cutaway.dictionaries.control import Settings
from cutaway.dictionaries.instruments import Directions
from cutaway.dictionaries.kernels.choice import break_even
from cutaway.dictionaries.registry import build
from cutaway.dictionaries.task import DictionaryStack, DictionaryTask
from cutaway.nets.model import ModelReference
from cutaway.nets.parameters import parameters_by_component
from cutaway.nets.sites import Site
from cutaway.runs.folder import Run
from cutaway.studies.study import Prepared, Study

SAMPLE = 16_384  # states the start of a dictionary is set from


@dataclass
class _Source:
    """Streams of the states of one or several sites, and what they come from."""

    train: ActivationStream | ModelStream
    validation: ActivationStream | ModelStream
    reference: ModelReference
    sites: list[Site]
    parent: dict[str, Any]
    about: dict[str, Any]  # of text and model, for who judges the dictionary
    notices: list[str]


class DictionaryStudy(Study[DictionaryConfig]):
    name = "dictionary"
    headline = ("val_explained_variance", "val_l0", "val_dead_share", "val_normalised_mse")

    def prepare(self, config: DictionaryConfig) -> Prepared:
        source = _source([config])
        return _prepared(config, source, 0)[0]

    def parameters(self, config: DictionaryConfig) -> dict[str, int]:
        if config.d_model is None:
            raise UserError("d_model: needed to count parameters (the width of the states)")
        with torch.device("meta"):
            return parameters_by_component(build(_shape(config.sized(config.d_model, 1_000_000))))

    def prepare_together(self, configs: Sequence[DictionaryConfig]) -> list[Prepared]:
        source = _source(configs)
        each, tasks = zip(*(_prepared(one, source, index) for index, one in enumerate(configs)))
        distinct = list(dict.fromkeys(source.sites))
        places = [distinct.index(site) for site in source.sites]
        stack = DictionaryStack(tasks, source.train, places)
        for one in each:
            one.task = stack
        return list(each)

    def advise(self, run: Run, config: DictionaryConfig) -> list[str]:
        history, resolved = run.read("history"), run.record.resolved
        if history is None:
            return []
        sized = DictionaryConfig(**resolved["settings"])
        length = "epochs" if config.max_steps is None else "max_steps"
        return advice(history, sized, held_out=resolved["validation_states"], length=length)


class _OneSite:
    """One site's states of a stream of several."""

    def __init__(self, stream: ActivationStream | ModelStream, place: int):
        self.stream, self.place = stream, place
        self.batch_size, self.width, self.rows = stream.batch_size, stream.width, stream.rows

    def batch(self, index: int) -> Tensor:
        states = self.stream.batch(index)
        return states[self.place] if states.ndim == 3 else states


def _source(configs: Sequence[DictionaryConfig]) -> _Source:
    """The streams of these configs: of one site, or where theirs differ of all of them."""
    first = configs[0]
    if first.streaming:
        return _from_model(configs)
    if first.activations is None:
        raise UserError("activations: needed, a folder `cutaway extract` made (or streaming)")
    store = ActivationStore(first.activations)
    sites = [_site(store, config.layer) for config in configs]
    distinct = list(dict.fromkeys(sites))
    chosen = {"sites": distinct} if len(distinct) > 1 else {"site": distinct[0]}
    open_stream = partial(
        ActivationStream,
        store,
        **chosen,
        seed=first.data_seed,
        skip_first=first.skip_first,
        validation_fraction=first.validation_fraction,
    )
    rows = open_stream(batch_size=1).rows
    batch_size = first.sized(store.width, rows).batch_size
    digest = sha256((store.path / MANIFEST).read_bytes()).hexdigest()
    parent = {"kind": "activations", "id": str(first.activations), "sha256": digest}
    text = store.manifest["data"]
    return _Source(
        train=open_stream(batch_size=batch_size),
        validation=open_stream(batch_size=min(4096, first.eval_tokens), part="validation"),
        reference=store.reference,
        sites=sites,
        parent=parent,
        about={
            "text": text["source"],
            "text_sha256": text["fingerprint"],
            "context_length": text["context_length"],
            "bos": text.get("bos") is not None,
            "model_dtype": store.manifest.get("model_dtype", "auto"),
            "states_sha256": digest,
        },
        notices=[]
        if store.complete
        else [f"{store.path}: its extraction has not ended; {store.rows:,} rows are there"],
    )


def _from_model(configs: Sequence[DictionaryConfig]) -> _Source:
    from cutaway.nets.reference import open_model

    first = configs[0]
    if first.model is None:
        raise UserError("model: needed where streaming")
    model = open_model(first.model, device=first.device)
    sites = [model.site(config.layer) for config in configs if config.layer is not None]
    if len(sites) < len(configs):
        raise UserError("layer: needed where streaming (6, embed, mlp.6, ...)")
    distinct = list(dict.fromkeys(sites))
    open_stream = partial(
        ModelStream,
        model,
        first.data,
        distinct if len(distinct) > 1 else distinct[0],
        tokens=first.tokens,
        seed=first.data_seed,
        context_length=first.context_length,
        validation_fraction=first.validation_fraction,
        skip_first=first.skip_first,
    )
    rows = open_stream(batch_size=1).rows
    batch_size = first.sized(model.width, rows).batch_size
    reference = model.reference
    train = open_stream(batch_size=batch_size)
    return _Source(
        train=train,
        validation=open_stream(batch_size=min(4096, first.eval_tokens), part="validation"),
        reference=reference,
        sites=sites,
        parent={"kind": "model", "id": reference.id, "sha256": reference.weights_sha256},
        about={
            "text": first.data,
            "text_sha256": train.text.fingerprint,
            "context_length": train.text.context_length,
            "bos": train.text.bos is not None,
            "model_dtype": str(model.dtype).removeprefix("torch."),
        },
        notices=[],
    )


def _site(store: ActivationStore, layer: str | None) -> Site:
    if layer is not None:
        return store.site(layer)
    if len(store.sites) > 1:
        there = ", ".join(map(str, store.sites))
        raise UserError(f"layer: which one? {store.path} holds {there}")
    return store.sites[0]


def _prepared(
    given: DictionaryConfig, source: _Source, index: int
) -> tuple[Prepared, DictionaryTask]:
    """A dictionary of one site, set from a sample of its states, and its task."""
    site = source.sites[index]
    distinct = list(dict.fromkeys(source.sites))
    train = _OneSite(source.train, distinct.index(site))
    config = given.sized(train.width, train.rows)
    shape = _shape(config)
    dictionary = build(shape, config.seed)
    held_out = _held_out(source.validation, distinct.index(site), config.eval_tokens)
    sample = _sample(train)
    for states in (sample, *held_out):
        if wrong := int((~states.isfinite().all(1)).sum()):
            raise UserError(
                f"{site}: {wrong:,} of {len(states):,} states of {source.parent['id']} are not "
                "finite, which no extraction writes: damaged (`cutaway runs verify` names the shard)"
            )
    square = source.train.mean_squared_norm(site)
    if not square > 0 or not sample.any():
        raise UserError(f"{site}: every state is zero; nothing to learn")
    dictionary.input_scale.fill_((train.width / square) ** 0.5)
    dictionary.start(sample * dictionary.input_scale, config.start_l0)
    if config.threshold is not None and shape.architecture == "jumprelu":
        dictionary.threshold.data.fill_(config.threshold)
        if not any(
            dictionary.encode_sparse(states).fired().any() for states in (sample, *held_out)
        ):
            raise UserError(
                f"threshold = {config.threshold:g}: no feature is active on any of "
                f"{len(sample):,} states of {site}; lower it, or leave it out"
            )
    task = DictionaryTask(dictionary, _settings(config), train, held_out)
    task.control.l0_average.fill_(config.start_l0)
    resolved: dict[str, Any] = {
        "settings": config.model_dump(mode="json"),
        "dictionary": {
            "shape": asdict(shape),
            "reference": source.reference.to_json(),
            "site": str(site),
            "positions": "without 0" if config.skip_first else "all",
            "dtype": "float32",
            "validation_fraction": config.validation_fraction,
            **source.about,
        },
        "train_states": train.rows,
        "validation_states": sum(len(one) for one in held_out),
    }
    if config.kernels == "auto":
        resolved["break_even"] = _measure(task, sample, config.device)
    parents = [{**source.parent, "site": str(site)}]
    loop = config.loop()
    prepared = Prepared(
        task=task,
        loop=loop,
        instruments=[Directions(config.eval_every)],
        parents=parents,
        resolved=resolved,
        notices=[*source.notices, *given.ignored()],
    )
    return prepared, task


def _shape(config: DictionaryConfig) -> DictionaryShape:
    k = max(1, round(config.target_l0)) if config.architecture in FIXED_L0 else None
    groups: tuple[int, ...] = ()
    if config.architecture == "matryoshka":
        whole = config.d_hidden
        asked = config.groups or [max(1, whole // 16), max(1, whole // 4), whole]
        groups = tuple(sorted(set(asked)))
    bandwidth = {} if config.bandwidth is None else {"bandwidth": config.bandwidth}
    return DictionaryShape(
        config.architecture, config.d_model, config.d_hidden, k=k, groups=groups, **bandwidth
    )


def _settings(config: DictionaryConfig) -> Settings:
    chosen: dict[str, Any] = {}
    if config.sparsity is not None:
        chosen["sparsity"] = config.sparsity
    if config.lambda_sparse is not None:
        chosen["sparsity_weight"] = config.lambda_sparse
    return Settings(
        target_l0=config.target_l0 or 0.0,
        controlled=config.controlled and config.architecture not in FIXED_L0,
        dead_after=config.dead_after,
        kernels=config.kernels,
        **chosen,
    )


def _sample(train: _OneSite) -> Tensor:
    batches, count = [], 0
    while count < min(SAMPLE, train.rows):
        batches.append(train.batch(len(batches)).float())
        count += len(batches[-1])
    return torch.cat(batches)[:SAMPLE]


def _held_out(stream: ActivationStream | ModelStream, place: int, tokens: int) -> list[Tensor]:
    """The first `tokens` held-out states, in batches."""
    found, count = [], 0
    for block in stream.blocks():
        states = (block[place] if block.ndim == 3 else block)[: tokens - count]
        found.append(states.clone())
        count += len(states)
        if count >= tokens:
            break
    return found


def _measure(task: DictionaryTask, sample: Tensor, device_name: str) -> dict[str, float]:
    """Set where the dense way becomes the faster one, for each precision there is."""
    device = hardware.device(device_name)
    x = sample[: task.train_states.batch_size] * task.model.input_scale
    if len(x) < 2 or device.type != "cpu":
        return {}
    found = {}
    for name in hardware.precisions(device):
        found[name] = break_even(task.model, x, getattr(torch, name))
    task.control.set_break_even(found)
    return found
