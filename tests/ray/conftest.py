"""One start of Ray for a session of these tests; without Ray all of them skip (`make ray` sets up an environment that has it).

Ask for `ray.data`, never for `ray` alone: the folder of the tests is on the path, so that this one answers to the missing package's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Ray warns of what it deprecates of its own, which is no error of a test here."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(scope="session", autouse=True)
def ray() -> Iterator[object]:
    """The module, started on this machine alone with two processors, whatever other Ray may run here."""
    pytest.importorskip("ray.data", reason="ray is not installed: make ray")
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()
