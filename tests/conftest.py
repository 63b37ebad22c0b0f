"""What all tests share: a small corpus, small settings, and the command line as a function."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Before torch is loaded: test processes run side by side, one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A suite started in a script's background ignores Ctrl-C, and so would the programs it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"

# Seconds after which what has not come will not come: far beyond what any load makes of it, so that
# no outcome depends on how busy the machine is.
PATIENCE = 1800

SUBJECTS = [
    "the cat",
    "a small dog",
    "our teacher",
    "the old king",
    "every sailor",
    "my sister",
    "the president",
]
VERBS = ["sees", "likes", "follows", "remembers", "asks about", "writes to", "paints"]
OBJECTS = [
    "the river",
    "a red house",
    "the long road",
    "her brother",
    "the quiet sea",
    "an open door",
    "the vote",
]
ENDS = [
    "in the morning",
    "at night",
    "with great care",
    "for the last time",
    "without a word",
    "again and again",
]

TINY = {
    "block_size": 16,
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 16,
    "n_senses": 2,
    "vocab_size": 300,
    "batch_size": 4,
    "eval_interval": 20,
    "eval_iters": 2,
    "max_iters": 60,
    "learning_rate": 0.01,
    "precision": "float32",
}


GROK = {
    "p": 11,
    "model_type": "routed",
    "hidden_dim": 16,
    "n_heads": 3,
    "gate_dim": 8,
    "train_frac": 0.6,
    "epochs": 60,
    "lr": 0.01,
    "log_every": 10,
    "weight_curvature_interval": 20,
}


def sentences(seed: int, count: int) -> str:
    """English-like text from a small grammar: the same for the same seed."""
    draw = random.Random(seed)
    made = [
        " ".join(draw.choice(words) for words in (SUBJECTS, VERBS, OBJECTS, ENDS))
        for _ in range(count)
    ]
    return " ".join(sentence.capitalize() + "." for sentence in made)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Token files go to a folder of this test session's own, also those of child processes."""
    os.environ["CUTAWAY_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of forty small text files."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(40):
        (folder / f"text-{number:02d}.txt").write_text(sentences(number, 40))
    return folder


def settings_args(settings: dict) -> list[str]:
    """`{"n_embd": 16}` → `["--n-embd", "16"]`."""
    return [
        part
        for key, value in settings.items()
        for part in (f"--{key.replace('_', '-')}", str(value))
    ]


def command(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.Popen:
    """`cutaway ...` as a real process."""
    return subprocess.Popen(
        [sys.executable, "-m", "cutaway", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="session")
def tiny(corpus: Path) -> dict:
    """Settings of a language run that takes a second."""
    return {"data": str(corpus), **TINY}


@pytest.fixture(scope="session")
def backpack_run(tmp_path_factory: pytest.TempPathFactory, tiny: dict) -> Path:
    """A trained tiny Backpack's folder; tests only read it."""
    from cutaway.studies.train import train

    out = tmp_path_factory.mktemp("runs") / "backpack"
    train("language", {**tiny, "max_iters": 300}, out)
    return out


@pytest.fixture(scope="session")
def gpt2_run(tmp_path_factory: pytest.TempPathFactory, tiny: dict) -> Path:
    """Its GPT-2 twin's folder; tests only read it."""
    from cutaway.studies.train import train

    out = tmp_path_factory.mktemp("runs") / "gpt2"
    train("language", {**tiny, "model": "gpt2", "max_iters": 100}, out)
    return out


@pytest.fixture(scope="session")
def grokking_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny routed network's folder; tests only read it."""
    from cutaway.studies.train import train

    out = tmp_path_factory.mktemp("runs") / "grokking"
    train("grokking", {**GROK, "epochs": 200}, out)
    return out


@pytest.fixture(scope="session")
def activations(gpt2_run: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the tiny GPT-2's hidden states; tests only read it."""
    from cutaway.activations.extraction import extract

    out = tmp_path_factory.mktemp("activations") / "store"
    extract({"model": str(gpt2_run), "data": str(corpus), "tokens": 20_000}, out)
    return out


@pytest.fixture(scope="session")
def dictionary_run(activations: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny JumpReLU dictionary's folder; tests only read it."""
    from cutaway.studies.train import train

    out = tmp_path_factory.mktemp("runs") / "dictionary"
    settings = {"activations": str(activations), "layer": "0", "d_hidden": 64, "target_l0": 6}
    train("dictionary", {**settings, "batch_size": 128, "max_steps": 300}, out)
    return out


@pytest.fixture(scope="session")
def probe_data(gpt2_run: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of probe data of the token " the" for the tiny GPT-2; tests only read it."""
    from cutaway.probes.data.windows import token_data
    from cutaway.text.sources import source
    from cutaway.text.tokenizers import Tokenizer

    tokenizer = Tokenizer.load(gpt2_run / "tokenizer")
    out = tmp_path_factory.mktemp("probes") / "the"
    made = token_data(
        source(str(corpus)), tokenizer, " the", context_length=12, max_chunks_per_class=400
    )
    return made.save(out)


@pytest.fixture(scope="session")
def probe_run(gpt2_run: Path, probe_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of linear probes trained by steps at two sites; tests only read it."""
    from cutaway.studies.train import train

    out = tmp_path_factory.mktemp("runs") / "probe"
    settings = {"model": str(gpt2_run), "data": str(probe_data), "layers": "embed,0"}
    train("probe", {**settings, "method": "minibatch", "max_steps": 200}, out)
    return out


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`tiny_folder("llama")`: a small random model in Hugging Face layout with a tokenizer, made once.

    Tests only read it.
    """
    from activations.tiny_models import save_model, small_tokenizer

    made: dict[str, Path] = {}

    def folder(layout: str) -> Path:
        if layout not in made:
            place = tmp_path_factory.mktemp("models") / layout
            made[layout] = save_model(layout, place, tokenizer=small_tokenizer())
        return made[layout]

    return folder


@pytest.fixture(scope="session")
def llama_with_bos(gpt2_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama whose tokenizer puts BOS before a text; tests only read it."""
    from activations.small_stores import huggingface_model, with_special

    place = tmp_path_factory.mktemp("models") / "llama-with-bos"
    return with_special(huggingface_model(gpt2_run, place), "B $A")


@pytest.fixture
def cutaway(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Run a command line in a folder of its own; its exit code, stdout and stderr."""
    from cutaway.cli.main import run

    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call
