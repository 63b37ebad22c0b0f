"""`cutaway extract`: a model's hidden states over a text, to a store on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from cutaway.base import display
from cutaway.base.errors import UserError
from cutaway.cli.common import Flag, output_format

if TYPE_CHECKING:
    from cutaway.activations.store import ActivationStore


def extract(
    model: str | None = None,
    *,
    out: Path | None = None,
    data: str | None = None,
    layers: str | None = None,
    tokens: Annotated[str | None, Parameter(name=["--tokens", "--num-tokens"])] = None,
    dtype: str | None = None,
    model_dtype: str | None = None,
    batch_size: Annotated[
        int | None, Parameter(name=["--batch-size", "--batch-size-extract"])
    ] = None,
    context_length: int | None = None,
    bos: Annotated[bool | None, Parameter(negative="--no-bos")] = None,
    separator: str | None = None,
    chat: Flag = False,
    reply_only: Flag = False,
    shard_rows: int | None = None,
    step: str | None = None,
    device: str | None = None,
    resume: Flag = False,
    json: bool = False,
    csv: bool = False,
) -> None:
    """Write a model's hidden states over a text to a store, for dictionaries and probes to read.

    What it takes (tokens, bytes, time) is said first; what does not fit the disk is refused.

    Args:
        model: A run, a folder in Hugging Face layout, a GGUF file, or a Hugging Face id; with --resume
            not needed.
        out: The store's folder.
        data: Text: a source by name, a file or a folder (`cutaway corpus ls`) [docstrings].
        layers: all, or sites: 0,6,11, embed, mlp.3, attention.3, blocks.6.hook_resid_post [all].
        tokens: How many tokens of it: 250000, 500k, 10M [1M].
        dtype: What the store keeps: float32, bfloat16 or int8 (a scale per token) [float32].
        model_dtype: What the model computes in: auto, float32 or bfloat16 [auto].
        batch_size: Contexts in a forward pass; halved once where memory ends [8].
        context_length: Tokens in a context [what the model reads, at most 1024].
        bos: Special tokens around contexts, whose states are not kept: BOS, or none with --no-bos
            [those the tokenizer adds by itself].
        separator: Between packed documents: bos, eos, both, none or auto [auto: as the model was
            trained, measured where nothing says it].
        chat: The data are conversations (rows with `messages`), read with the model's chat template.
        reply_only: Keep the states of replies only.
        shard_rows: Most rows of a shard [what 256 MB hold].
        step: Which checkpoint of a run: best, last or a step [best].
        device: auto, cpu, cuda, cuda:N or mps [auto].
        resume: Go on with the extraction in --out that was stopped or killed.
        json: Print JSON.
        csv: Print CSV.
    """
    from cutaway.activations import extraction

    format = output_format(json, csv)
    if out is None:
        raise UserError("extract: say where to, with --out FOLDER")
    given = {
        "model": model,
        "data": data,
        "layers": layers,
        "tokens": tokens,
        "store_dtype": dtype,
        "dtype": model_dtype,
        "batch_size": batch_size,
        "context_length": context_length,
        "bos": bos,
        "separator": separator,
        "chat": chat or None,
        "reply_only": reply_only or None,
        "shard_rows": shard_rows,
        "step": step,
        "device": device,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    settings = extraction.recorded(out) if resume else {}
    if "model" not in settings | changes:
        raise UserError("extract: name a model: a run, a folder, a GGUF file or a Hugging Face id")
    store = extraction.extract(settings | changes, out, resume=resume)
    weights = store.reference.dequantised
    title = f"{out}: {store.rows:,} rows" + (f", weights {weights}" if weights else "")
    display.show(_rows(store), format, title=title if not json else None)


def _rows(store: ActivationStore) -> list[dict[str, Any]]:
    """A line per site: norms without position 0 and at it, and what the store's dtype cost."""
    summary = store.manifest["statistics"]
    return [
        {
            "site": str(site),
            "rows": store.rows,
            "width": store.width,
            "dtype": store.dtype,
            "mean_norm": summary[str(site)]["rest"]["mean_norm"],
            "mean_norm_at_0": summary[str(site)]["first"]["mean_norm"]
            if summary[str(site)]["first"]["rows"]
            else None,
            "relative_error": summary[str(site)]["relative_error"],
            "non_finite": summary[str(site)]["non_finite"],
            **({"weights": weights} if (weights := store.reference.dequantised) else {}),
        }
        for site in store.sites
    ]
