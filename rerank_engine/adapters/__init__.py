"""Re-ranking inside the frameworks that people use: each module is one framework's, is imported by its name, and needs that framework.

    from rerank_engine.adapters.langchain import RerankCompressor, PairScorer, PipelineRetriever
    from rerank_engine.adapters.llama_index import RerankPostprocessor
    from rerank_engine.adapters.haystack import RerankRanker
    from rerank_engine.adapters.pyterrier import RerankTransformer
    from rerank_engine.adapters.sentence_transformers import CrossEncoder      # its shape; needs neither it nor torch
    from rerank_engine.adapters.flag_embedding import FlagReranker             # its shape
    from rerank_engine.adapters.rerankers import Reranker

They hold no logic: `scoring` says how a model, a scorer or a stage orders texts. What a caller hands in is never changed.
"""
