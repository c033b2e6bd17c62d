"""The demo: questions over Wikipedia passages that ship with the package, through BM25, dense retrieval, fusion and a cross-encoder."""

from .pipeline import DATA, ENCODER, SAMPLE, Demo, load_demo, shipped_vectors

__all__ = ["DATA", "ENCODER", "SAMPLE", "Demo", "load_demo", "shipped_vectors"]
