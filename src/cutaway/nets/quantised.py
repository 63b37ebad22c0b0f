"""The words that stand beside the figures of a model whose weights were dequantised."""

from __future__ import annotations


def dequantised(quantisation: str | None) -> str:
    """`dequantised from 4 bits (Q4_K_M)`; empty for weights that were stored as they are used."""
    return f"dequantised from {quantisation}" if quantisation else ""


def named(name: str, quantisation: str | None) -> str:
    """A model's name and, for a quantised one, how its weights were stored."""
    return f"{name}, {dequantised(quantisation)}" if quantisation else name
