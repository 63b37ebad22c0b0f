"""Laws for every command: it explains itself quickly, and help loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

from conftest import PATIENCE
from cutaway.cli.main import COMMANDS, GROUPS

HEAVY = (
    "torch",
    "transformers",
    "wandb",
    "gradio",
    "ray",
    "matplotlib",
    "duckdb",
    "pandas",
    "datasets",
)
PATHS = [[name] for name, *_ in COMMANDS]
PATHS += [[group, name] for group, _, commands in GROUPS for name, *_ in commands]
PROBE = """
import sys
from cutaway.cli.main import run
code = run(sys.argv[1:])
heavy = [name for name in {heavy!r} if name in sys.modules]
print("HEAVY", heavy, code)
"""


def helped(path: list[str]) -> str:
    code = PROBE.format(heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", code, *path, "--help"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.stdout.rstrip().endswith("HEAVY [] 0"), done.stdout[-300:] + done.stderr[-300:]
    return done.stdout


def test_the_overview_lists_every_command() -> None:
    shown = helped([])
    for name, _, line in COMMANDS:
        assert name in shown
        assert line.split()[0] in shown
    for group, *_ in GROUPS:
        assert group in shown


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_every_command_helps_without_loading_torch(path: list[str]) -> None:
    shown = helped(path)
    assert f"cutaway {' '.join(path)}" in shown
    undescribed = [
        line
        for line in shown.splitlines()
        if line.startswith("│ *")
        and line.strip("│* ").endswith("[required]")
        and len(line.strip("│* ").split("  ")[-1].replace("[required]", "").strip()) < 3
    ]
    assert not undescribed


def test_importing_cutaway_is_light() -> None:
    code = f"import sys, cutaway; print([n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_module_pulls_in_an_optional_library_when_imported() -> None:
    code = """
import importlib, pkgutil, sys, cutaway
for module in pkgutil.walk_packages(cutaway.__path__, "cutaway."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:  # torch's builds for GPUs bring triton, others have none
        if error.name != "triton":
            raise
print([n for n in ("wandb", "tensorboard", "gradio", "ray", "datasets", "pandas") if n in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
