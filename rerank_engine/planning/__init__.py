"""From what stages cost and what they are worth to the pipeline that a latency budget buys: `rr.plan`, `rerank-engine plan`."""

from .calibrate import calibrate
from .capacity import Capacity, Service, capacity
from .costs import Costs, StageCost, Work
from .parts import Parts
from .plan import Candidate, Plan, plan
from .quality import Chain, Curves
from .shape import Shape, shape_of

__all__ = [
    "Candidate",
    "Capacity",
    "Chain",
    "Costs",
    "Curves",
    "Parts",
    "Plan",
    "Service",
    "Shape",
    "StageCost",
    "Work",
    "calibrate",
    "capacity",
    "plan",
    "shape_of",
]
