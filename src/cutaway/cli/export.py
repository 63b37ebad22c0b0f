"""`cutaway export`: hand a run's model on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cutaway.base import display
from cutaway.runs.store import find_run


def export(run: str, *, format: Literal["hf"] = "hf", out: Path | None = None) -> None:
    """Write a run's model in another library's layout.

    Args:
        run: A run.
        format: hf: Hugging Face; loads with AutoModelForCausalLM and AutoTokenizer.
        out: The folder to write; default RUN/export-hf.
    """
    from cutaway.nets.export import export_huggingface
    from cutaway.nets.reference import load

    folder = find_run(run)
    loaded = load(folder, device="cpu")
    written = export_huggingface(loaded.model, loaded.tokenizer, out or folder / f"export-{format}")
    display.notice(f"wrote {written} (step {loaded.step})")
