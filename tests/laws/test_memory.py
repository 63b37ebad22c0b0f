"""Sizes are checked against the memory there is before anything is allocated; what fits is not refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import GROK, TINY, settings_args
from cutaway.base import hardware
from cutaway.base.errors import UserError
from cutaway.cli.main import run
from cutaway.studies.registry import STUDIES, config_of
from cutaway.studies.settings import resolve
from cutaway.studies.train import require_memory

SMALL = {
    "language": {**TINY, "warmup_iters": 0},
    "grokking": GROK,
    "dictionary": {"synthetic": "superposition", "d_hidden": 64, "batch_size": 32},
    "probe": {},
}
# Of each study every setting that something is allocated by, and others that must fit beside it.
SIZES = [
    ("language", "n_embd", {"n_head": 1, "n_senses": 1}),
    ("language", "n_layer", {}),
    ("language", "block_size", {}),
    ("language", "vocab_size", {}),
    ("language", "batch_size", {}),
    ("language", "n_senses", {"n_embd": 10**15, "n_head": 1}),
    ("grokking", "hidden_dim", {}),
    ("grokking", "n_layers", {}),
    ("grokking", "n_heads", {}),
    ("grokking", "gate_dim", {}),
    ("dictionary", "d_hidden", {}),
    ("dictionary", "d_model", {}),
    ("dictionary", "batch_size", {}),
    ("dictionary", "true_features", {}),
    ("dictionary", "eval_tokens", {}),
    ("dictionary", "parents", {"synthetic": "hierarchy", "d_hidden": 64, "parent_rate": 0.5}),
]


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Say how much memory there is."""
    return lambda amount: monkeypatch.setattr(hardware, "available_memory", lambda on=None: amount)


@pytest.mark.parametrize("value", [10**9, 10**15])
@pytest.mark.parametrize(("study", "field", "more"), SIZES)
def test_a_size_no_memory_holds_is_refused_by_name(study, field, more, value, there) -> None:
    there(2**36)  # 64 GiB
    settings = {**SMALL[study], **more, field: value}
    with pytest.raises(UserError, match=field) as refused:
        require_memory([resolve(config_of(study), settings)])
    said = str(refused.value)
    assert "\n" not in said
    assert ("of memory needed" in said and "68.7 GB free" in said) or "no machine holds" in said


@pytest.mark.parametrize("study", ["language", "grokking", "dictionary"])
def test_what_fits_to_the_byte_is_taken_and_one_byte_less_is_not(study, there) -> None:
    config = resolve(config_of(study), SMALL[study])
    needed = sum(need.bytes for need in config.memory_needed())
    there(needed)
    require_memory([config])
    there(needed - 1)
    with pytest.raises(UserError, match=r"of memory needed \(.+\), .+ free; lower"):
        require_memory([config])
    there(3 * needed - 1)
    with pytest.raises(UserError):
        require_memory([config] * 3)


def test_needs_are_lower_bounds_of_what_training_takes() -> None:
    """Weights, gradients and moments exactly; nothing is counted that a run does not have."""
    from cutaway.nets.architectures import build

    for study in ("language", "grokking"):
        config = resolve(config_of(study), SMALL[study])
        architecture = (
            config.architecture(config.vocab_size) if study == "language" else config.architecture()
        )
        parameters = sum(p.numel() for p in build(architecture).parameters())
        assert config.memory_needed()[0].bytes == 16 * parameters


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 9])
@pytest.mark.parametrize(
    "given",
    [
        ("language", {"model": "backpack"}),
        ("language", {"model": "gpt2", "bias": False}),
        ("grokking", {"model_type": "baseline"}),
        ("grokking", {"model_type": "routed"}),
        ("grokking", {"model_type": "transformer", "hidden_dim": 12}),
    ],
)
def test_parameters_of_deep_networks_are_counted_without_building_them(given, layers) -> None:
    from cutaway.nets.architectures import build
    from cutaway.nets.parameters import parameters_by_component, parameters_of

    study, settings = given
    depth = "n_layer" if study == "language" else "n_layers"
    config = resolve(config_of(study), {**SMALL[study], **settings, depth: layers})
    shape = config.architecture(300) if study == "language" else config.architecture()
    assert parameters_of(shape) == parameters_by_component(build(shape))


def test_every_study_is_asked_what_it_needs() -> None:
    assert {study for study, *_ in SIZES} | {"probe"} == set(STUDIES)  # a probe's are its states'


LINES = {
    "train": ["train", "docstrings-tiny", "--n-embd", "96", "--out", "new"],
    "train, resumed": ["train", "RUN", "--extra-steps", "5"],
    "sweep": ["sweep", "sweep.yaml", "--out", "new"],
    "a tokenizer": ["corpus", "show", "corpus.txt", "--vocab-size", "100000"],
    "sample": ["sample", "RUN", "--count", "100000"],
    "extract": ["extract", "RUN", "--data", "corpus.txt", "--tokens", "500", "--out", "new"],
    "features": ["sae", "features", "DICTIONARY", "--examples", "1000", "--out", "new"],
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_every_command_that_allocates_says_what_and_leaves_nothing(
    line, there, backpack_run, dictionary_run, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.txt").write_text("the cat sees the river. " * 200)
    fields = "".join(f"{name}: {value}\n" for name, value in GROK.items())
    (tmp_path / "sweep.yaml").write_text(f"study: grokking\nseeds: 2\n{fields}")
    places = {"RUN": str(backpack_run), "DICTIONARY": str(dictionary_run)}
    there(5_000)
    before = sorted(tmp_path.rglob("*"))
    assert run([places.get(word, word) for word in line]) == 2
    said = [one for one in capsys.readouterr().err.splitlines() if one.startswith("cutaway: ")]
    assert len(said) == 1
    assert "of memory needed (" in said[0]
    assert "5.0 KB free; lower" in said[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_the_probes_hidden_units_are_counted(there, gpt2_run, probe_data, tmp_path, capsys) -> None:
    settings = {"method": "mlp", "mlp_width": 10**9, "layers": "0", "controls": "none"}
    places = ["--model", str(gpt2_run), "--data", str(probe_data), "--out", str(tmp_path / "new")]
    assert run(["train", "probe-mlp", *settings_args(settings), *places]) == 2
    assert "mlp_width = 1000000000: at least" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_container_s_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("max", "current", ("cached",))
    monkeypatch.setattr(hardware, "_CGROUPS", (("none", str(tmp_path), *names),))
    assert hardware._free_in_container() == sys.maxsize
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "current").write_text("5\n")
    (tmp_path / "memory.stat").write_text("cached 0\nother 7\n")
    assert hardware._free_in_container() == sys.maxsize
    (tmp_path / "max").write_text("1000\n")
    assert hardware.available_memory() == 995
    (tmp_path / "memory.stat").write_text("cached 3\n")  # is given back when it is asked for
    assert hardware.available_memory() == 998
    (tmp_path / "current").write_text("2000\n")
    assert hardware.available_memory() == 0
