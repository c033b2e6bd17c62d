"""What the server tells Prometheus. Times in seconds; nothing of what the requests say."""

from __future__ import annotations

import threading

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .service import Ranked

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 5, 10, 20, 50, 100, 200, 500, 1000, 5000)


class Metrics:
    """Of one app, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self._called, self._lock = [0, 0], threading.Lock()  # tokens, and with padding
        self.requests = Counter("rerank_requests", "Requests answered", ["route", "status"], registry=own)
        self.duration = Histogram("rerank_request_seconds", "From request to answer", ["route"], buckets=SECONDS, registry=own)
        self.shed = Counter("rerank_shed", "Requests turned away", ["reason"], registry=own)
        self.tokenization = Histogram("rerank_tokenization_seconds", "Until a request's tokens are known", buckets=SECONDS, registry=own)
        self.queue = Histogram("rerank_queue_seconds", "From then to a request's first wave", buckets=SECONDS, registry=own)
        self.inference = Histogram("rerank_inference_seconds", "Of waves, by a request's share", buckets=SECONDS, registry=own)
        self.documents = Histogram("rerank_request_documents", "Documents of a request", buckets=SIZES, registry=own)
        self.tokens = Counter("rerank_tokens", "Tokens that the model was given", registry=own)
        self.computed = Counter("rerank_computed_tokens", "Tokens and padding that calls of networks computed", ["what"], registry=own)
        self.padding = Gauge("rerank_padding_share", "Share of padding in them, so far", registry=own)
        self.truncated = Counter("rerank_truncated_documents", "Documents that lost their end", registry=own)
        self.unfinished = Counter("rerank_unfinished", "Answers that a deadline cut short", registry=own)
        self.cancelled = Counter("rerank_cancelled", "Requests whose client went away", registry=own)
        self.waves = Counter("rerank_waves", "Waves of documents through the model", registry=own)
        self.wave = Histogram("rerank_wave_seconds", "Time of a wave", buckets=SECONDS, registry=own)
        self.waiting = Gauge("rerank_queue_tokens", "Tokens that wait", registry=own)
        self.pace = Gauge("rerank_pace_tokens_per_second", "Tokens a second, of late", registry=own)

    def told(self, *, tokens: int, seconds: float) -> None:
        """Of a wave, by the scheduler."""
        self.waves.inc()
        self.wave.observe(seconds)

    def called(self, tokens: int, computed: int) -> None:
        """Of a call of a network, see `Limits.calls`."""
        with self._lock:
            self._called[0] += tokens
            self._called[1] += computed
        self.computed.labels("tokens").inc(tokens)
        self.computed.labels("padding").inc(computed - tokens)
        self.padding.set(1 - self._called[0] / max(1, self._called[1]))

    def answered(self, ranked: Ranked) -> None:
        self.tokenization.observe(ranked.seconds["tokenization"])
        self.queue.observe(ranked.seconds["queue"])
        self.inference.observe(ranked.seconds["inference"])
        self.documents.observe(len(ranked.order))
        self.tokens.inc(ranked.tokens)
        self.truncated.inc(int((ranked.truncated > 0).sum()))
        self.unfinished.inc(not ranked.scored.all())

    def text(self) -> bytes:
        return bytes(generate_latest(self.registry))
