"""How long work reports on itself: it calls `progress(done, total)`; who shows a bar, and where, is the caller's business."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], object]
