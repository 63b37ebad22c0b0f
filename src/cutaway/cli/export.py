"""`cutaway export`: hand a run's model on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cutaway.base import display
from cutaway.base.errors import UserError
from cutaway.runs import places
from cutaway.runs.finding import find_run
from cutaway.runs.folder import Run


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
    out = out or folder / f"export-{format}"
    places.require_output(out, "an export")
    loaded = load(folder, device="cpu")
    if loaded.tokenizer is None:  # no language model
        weights = Run.open(folder).checkpoints.path(loaded.step) / "model.safetensors"
        raise UserError(
            f"{loaded.name}: has no place in another library's layout; its weights are in {weights}, "
            f"and cutaway.nets.load({str(run)!r}) is the network"
        )
    written = export_huggingface(loaded.model, loaded.tokenizer, out)
    display.notice(f"wrote {written} (step {loaded.step})")
