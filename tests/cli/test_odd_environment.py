"""Odd values of environment variables that are the libraries' own never end a command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import PATIENCE

ODD = {
    "a terminal of raised two columns": {"COLUMNS": "²", "LINES": "x"},
    "a window system there is not": {"MPLBACKEND": "nonsense"},
    "a date that is none": {"SOURCE_DATE_EPOCH": "yesterday"},
    "a date beyond all": {"SOURCE_DATE_EPOCH": "9" * 30},
}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_environment_ends_no_command(case, tmp_path: Path) -> None:
    log = {"iterations": [0, 100], "train_loss": [4.5, 3.2], "val_loss": [4.6, 3.3]}
    (tmp_path / "training_log.json").write_text(json.dumps(log))
    for line in (["--help"], ["plot", "loss", "training_log.json", "--out", "x.pdf"]):
        done = subprocess.run(
            [sys.executable, "-m", "cutaway", *line],
            cwd=tmp_path,
            env={**os.environ, **ODD[case]},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")
