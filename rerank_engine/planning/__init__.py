"""From what stages cost and what they are worth to the pipeline that a latency budget buys, and the machines for it: `rr.plan`,
`rerank-engine plan`."""

from .assumed import Assumed, Machine
from .calibrate import calibrate
from .capacity import Capacity, Service, capacity
from .costs import Costs, StageCost, Work
from .fleet import Outcome, Tier, simulate
from .parts import Parts
from .placement import Placement, place
from .plan import Candidate, Plan, plan
from .quality import Chain, Curves
from .shape import Shape, shape_of

__all__ = [
    "Assumed",
    "Candidate",
    "Capacity",
    "Chain",
    "Costs",
    "Curves",
    "Machine",
    "Outcome",
    "Parts",
    "Placement",
    "Plan",
    "Service",
    "Shape",
    "StageCost",
    "Tier",
    "Work",
    "calibrate",
    "capacity",
    "place",
    "plan",
    "shape_of",
    "simulate",
]
