"""FlashRank: all pairs in one padded batch of onnxruntime. The package itself, and its way alone over the same files.

The package is pointed at a folder of the published model under the names that it gives its own downloads, and its session, which takes
every processor, gives way to one of one thread. It hands out sigmoids, sorted; the logits are read back from them. int8 scores of a padded
batch differ from those of single pairs: they share one scale of activations.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.cross import MOST, Pairs, Score
from benchmarks.cross_models import CONFIG, NAME, Models
from benchmarks.peers import with_onnxruntime


def style_float32(models: Models) -> Score:
    return with_onnxruntime.float32(models, batch=None)


def style_int8(models: Models) -> Score:
    return with_onnxruntime.int8(models, batch=None)


def package(models: Models) -> Score:
    from flashrank import Ranker, RerankRequest
    from flashrank.Config import model_file_map

    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / NAME
        folder.mkdir()
        (folder / model_file_map[NAME]).symlink_to(models.graph("int8"))
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            (folder / name).symlink_to(models.int8 / name)
        (folder / "config.json").write_text(json.dumps(CONFIG))
        ranker = Ranker(NAME, cache_dir=root, max_length=MOST, log_level="WARNING")
    ranker.session = with_onnxruntime.open_session(models.graph("int8"))

    def score(pairs: Pairs) -> NDArray[np.float32]:
        passages = [{"id": i, "text": text} for i, (_, text) in enumerate(pairs)]
        out = np.empty(len(pairs), np.float64)
        for found in ranker.rerank(RerankRequest(query=pairs[0][0], passages=passages)):
            out[found["id"]] = found["score"]
        return np.log(out / (1 - out)).astype(np.float32)

    return score
