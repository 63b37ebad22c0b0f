"""What goldens are made of: every command, in order, in the folder that becomes `tests/golden/vN`.

A recipe is a list of steps. `Step` is one `cutaway` command; `exits` is how it must end, and with
`kill_at` the process is killed by SIGKILL (or `signal`) once that checkpoint, or that shard of a
store, is on the disk. All paths are relative to the folder; `gutenberg:en` is that of `texts/hub`,
which CUTAWAY_HUB names: states are judged on the text they are of, wherever the folder lies.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """`cutaway <command>`, how it must end, and where it is killed if it is to be."""

    command: str
    exits: int = 0
    kill_at: str | None = None  # a path: the process gets `signal` once it is there
    signal: int = signal.SIGKILL


ARCHITECTURES = ("jumprelu", "topk", "batch_topk", "gated", "relu", "matryoshka")

_LANGUAGE = (
    "--data texts/corpus --vocab-size 300 --block-size 16 --n-layer 2 --n-head 2 --n-senses 2 "
    "--batch-size 4 --eval-interval 40 --eval-iters 2 --warmup-iters 20 "
    "--precision float32 --keep-checkpoints 1"
)
_BACKPACK = f"train docstrings-tiny {_LANGUAGE} --n-embd 8 --max-iters 200 --learning-rate 0.005"
_GPT2 = f"train docstrings-tiny-gpt2 {_LANGUAGE} --n-embd 16 --max-iters 240 --learning-rate 0.01"
_SMALL = f"train docstrings-tiny-gpt2 {_LANGUAGE} --n-embd 8 --max-iters 60"
LANGUAGE = [
    Step(f"{_BACKPACK} --out language/backpack"),
    Step(f"{_GPT2} --out language/gpt2"),
    Step(
        f"{_GPT2} --out language/killed",
        exits=-signal.SIGKILL,
        kill_at="language/killed/checkpoints/step-000120/state.json",
    ),
    Step(
        f"{_BACKPACK} --out language/interrupted",
        exits=130,
        kill_at="language/interrupted/checkpoints/step-000080/state.json",
        signal=signal.SIGINT,
    ),
    Step(f"{_SMALL} --learning-rate 0.01 --out language/extended"),
    Step("train language/extended --extra-steps 20"),
    Step(f"{_SMALL} --learning-rate 1e30 --grad-clip none --out language/failed", exits=1),
    Step("export language/gpt2 --out exports/huggingface"),
]

_GROKKING = (
    "--p 11 --train-frac 0.6 --log-every 5 --weight-curvature-interval 20 --n-heads 2 --gate-dim 4"
)
_ROUTED = f"{_GROKKING} --model-type routed --hidden-dim 8 --lr 0.01 --epochs 200"
GROKKING = [
    Step(
        f"train validate {_ROUTED} --checkpoint-every 40 --save-routing-every 50 "
        "--routing-regularizer entropy --out grokking/routed"
    ),
    Step(
        f"train validate {_ROUTED} --checkpoint-every 40 --save-routing-every 50 "
        "--routing-regularizer entropy --out grokking/killed",
        exits=-signal.SIGKILL,
        kill_at="grokking/killed/checkpoints/step-000080/state.json",
    ),
    Step(
        f"train validate {_GROKKING} --model-type transformer --hidden-dim 8 --n-layers 1 "
        "--epochs 60 --checkpoint-every 30 --out grokking/transformer"
    ),
    Step(
        "train grok-in-seconds --p 23 --train-frac 0.7 --hidden-dim 48 --epochs 400 --log-every 5 "
        "--checkpoint-every 100 --keep-checkpoints 2 --out grokking/grokked"
    ),
    Step(f"train validate {_ROUTED} --epochs 60 --checkpoint-every 30 --out grokking/extended"),
    Step("train grokking/extended --extra-epochs 20"),
    Step(
        f"train validate {_ROUTED} --lr 1e30 --grad-clip none --checkpoint-every 50 "
        "--out grokking/failed",
        exits=1,
    ),
    Step("sweep texts/sweep.yaml --out grokking/sweep --jobs 2 --no-ensemble"),
    Step("sweep texts/sweep.yaml --out grokking/stacked --ensemble"),
    Step(
        "sweep texts/sweep-slow.yaml --out grokking/sweep-killed --no-ensemble",
        exits=-signal.SIGKILL,
        kill_at="grokking/sweep-killed/lr3e-3_s1/checkpoints/step-000040/state.json",
    ),
]

_STORE = "--data gutenberg:en --layers embed,1 --context-length 16"
STORES = [
    Step(f"extract language/gpt2 {_STORE} --tokens 3000 --shard-rows 1500 --out stores/float32"),
    Step(f"extract language/backpack {_STORE} --tokens 500 --dtype bfloat16 --out stores/bfloat16"),
    Step(f"extract language/gpt2 {_STORE} --tokens 500 --dtype int8 --bos --out stores/int8"),
    Step(
        f"extract language/gpt2 {_STORE} --tokens 3000 --shard-rows 130 --batch-size 1 "
        "--out stores/killed",
        exits=-signal.SIGKILL,
        kill_at="stores/killed/shards/00008.safetensors",
    ),
]

_SIZES = "--d-hidden 32 --batch-size 64 --eval-tokens 500 --dead-after 2000"
_STATES = f"--activations stores/float32 --layer 1 {_SIZES}"
_SHORT = "--max-steps 120 --target-l0 4 --eval-every 40 --checkpoint-every 40"
_LONGER = "--max-steps 400 --target-l0 4 --eval-every 100 --checkpoint-every 50"
DICTIONARIES = [
    *(
        Step(
            f"train texts/dictionary.yaml {_STATES} {_SHORT} --architecture {name} "
            f"--precision float32 --kernels sparse --out dictionaries/{name}"
        )
        for name in ARCHITECTURES
    ),
    # as a user gets it: precision and kernels are measured at the start
    Step(f"train texts/dictionary.yaml {_STATES} {_LONGER} --out dictionaries/measured"),
    Step(
        f"train texts/dictionary.yaml {_STATES} {_LONGER} --out dictionaries/killed",
        exits=-signal.SIGKILL,
        kill_at="dictionaries/killed/checkpoints/step-000200/state.json",
    ),
    Step(f"train texts/dictionary.yaml {_STATES} {_SHORT} --out dictionaries/extended"),
    Step("train dictionaries/extended --extra-steps 40"),
    Step(
        f"train texts/dictionary.yaml --streaming true --model language/gpt2 --data gutenberg:en "
        f"--tokens 2000 --context-length 16 --layer mlp.1 {_SIZES} {_SHORT} "
        "--precision float32 --out dictionaries/streaming"
    ),
    Step(
        f"train texts/dictionary.yaml --synthetic hierarchy --parents 6 --children 2 "
        "--parent-rate 0.3 --d-model 16 "
        f"--tokens 4000 {_SIZES} {_SHORT} --precision float32 --out dictionaries/synthetic"
    ),
    Step(
        f"train texts/dictionary.yaml --synthetic superposition --true-features 32 --active 3 "
        f"--d-model 16 --tokens 4000 {_SIZES} {_SHORT} --precision float32 "
        "--out dictionaries/superposition"
    ),
    Step(
        f"train texts/dictionary.yaml {_STATES} {_SHORT} --orthogonality top_k "
        "--topk-fraction 0.05 --tau-adaptive true --precision float32 "
        "--out dictionaries/orthogonality"
    ),
    Step(
        f"train texts/dictionary.yaml {_STATES} {_SHORT} --learning-rate 1e30 "
        "--gradient-clip none --precision float32 --out dictionaries/failed",
        exits=1,
    ),
    Step("sae export dictionaries/jumprelu --format cutaway --out exports/own"),
    Step("sae export dictionaries/jumprelu --format saelens --out exports/saelens"),
    Step("sae export dictionaries/gated --format saelens --out exports/saelens-gated"),
    Step("sae export dictionaries/topk --format saelens --out exports/saelens-topk"),
]

PIPELINE = [
    Step(
        "sae pipeline language/gpt2 --data gutenberg:en --tokens 1500 --context-length 16 "
        f"--layers 0,1 {_SIZES} {_SHORT} --precision float32 --out pipeline"
    ),
    Step(
        "sae eval pipeline/residual.1 --suite sparse-probing,tpp --tasks texts/topics.csv --seeds 2"
    ),
    Step("sae eval pipeline/residual.1 --suite scr --crossed texts/crossed.csv --out suites/scr"),
]

_PROBE = "probe train language/gpt2"
_STEPS = (
    "--max-steps 400 --batch-size 32 --eval-every 100 --checkpoint-every 50 --weight-decay 1e-4"
)
PROBES = [
    Step(
        "probe data language/gpt2 --data texts/corpus --context-length 12 "
        "--train-ratio 0.6 --max-chunks-per-class 80 --max-evaluation 500 --out probes/the"
    ),
    Step("probe data language/gpt2 --labels texts/topics.csv --out probes/topics"),
    Step("probe data language/gpt2 --labels texts/names.conll --label PER --out probes/persons"),
    Step(f"{_PROBE} --data probes/the --layers all --out probes/exact"),
    Step(f"{_PROBE} --data probes/topics --layers embed,1 --out probes/classes"),
    Step(f"{_PROBE} --data probes/persons --layers embed,1 --out probes/words"),
    Step(f"{_PROBE} --data probes/the --layers all --method mass_mean --out probes/mass-mean"),
    Step(f"{_PROBE} --data probes/the --method minibatch {_STEPS} --out probes/minibatch"),
    Step(
        f"{_PROBE} --data probes/the --method mlp --mlp-width 8 --max-steps 60 --batch-size 32 "
        "--out probes/mlp"
    ),
    Step(
        f"{_PROBE} --data probes/the --method minibatch {_STEPS} --out probes/killed",
        exits=-signal.SIGKILL,
        kill_at="probes/killed/checkpoints/step-000100/state.json",
    ),
    Step(f"{_PROBE} --data probes/the --method minibatch {_STEPS} --out probes/extended"),
    Step("train probes/extended --extra-steps 50"),
]

IMPORTS = [
    Step(f"runs import texts/history.{kind} --out imports/{kind}")
    for kind in ("jsonl", "csv", "tsv", "parquet")
]

RECIPES = {
    "language": LANGUAGE,
    "grokking": GROKKING,
    "stores": STORES,
    "dictionaries": DICTIONARIES,
    "pipeline": PIPELINE,
    "probes": PROBES,
    "imports": IMPORTS,
}
# what a recipe reads of others
NEEDS = {
    "language": (),
    "grokking": (),
    "stores": ("language",),
    "dictionaries": ("language", "stores"),
    "pipeline": ("language",),
    "probes": ("language",),
    "imports": ("language",),
}


def with_needs(names: Iterable[str]) -> list[str]:
    """The recipes named and those they need, in the order in which they are made."""
    wanted = {one for name in names for one in (name, *NEEDS[name])}
    return [name for name in RECIPES if name in wanted]
