"""What figures were measured on: `python -m benchmarks.machine > benchmarks/results/<machine>/machine.json`."""

from __future__ import annotations

import json

from rerank_engine.latency.facts import facts

if __name__ == "__main__":
    print(json.dumps(facts(), indent=1))
