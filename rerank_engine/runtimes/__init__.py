"""What runs models: files to tokens, tokens to batches, batches to outputs."""

from .load import load

__all__ = ["load"]
