"""The public names of the package, and the modules that they live in."""

# Where each public name lives: a module is loaded when the first of its names is used, so that the import itself costs next to nothing.
HOME = {
    "api": "Result rerank",
    "codec": "ResidualCodec ResidualTokens",
    "core": "Pipeline Query Ranking Rescore Scorer Scores Stage Step Top",
    "corpus": "Corpus Document",
    "device": "DeviceReranker to_device",
    "evaluation": "answer_in_context compare diagnose distractor_rate evaluate load_collection measures",
    "indexes": "BM25Index ImpactIndex TokenIndex VectorIndex",
    "ops.device_codes": "DeviceCodes",
    "ops.tensors": "DeviceTokens",
    "limits": "limited",
    "packed": "Packed",
    "planning": "Parts Plan plan",
    "runtimes": "load",
    "sharding": "ShardedIndex",
    "stages": (
        "BM25 LTR MMR RM3 SPLADE Activate BiEncoder Bound Calibration Cascade CertifiedMaxSim Chat ColBERT ColBERTPRF CrossEncoder "
        "Dedup Dense DuoT5 Fuse Hosted LateInteraction Listwise LostInTheMiddle MaxSim MonoT5 Pairwise PairwiseT5 RankT5 Rules "
        "ScoreCache Setwise Sharded Similarity SparseEncoder VectorPRF"
    ),
}
