"""Business rules: filter, boost, bury and pin documents by what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from ..core import LOWEST, Query, Ranking, Stage
from ..corpus import Document
from ..errors import InputError
from ..ops import checks
from .select import reordered

Test = Callable[[Document], bool]
_ABSENT = object()


def _value(document: Document, field: str) -> Any:
    """The metadata under a name; "_id", "_title" and "_text" are the document's own."""
    if field in ("_id", "_title", "_text"):
        return getattr(document, field[1:])
    return document.metadata.get(field, _ABSENT)


def _in_range(value: Any, low: Any, high: Any) -> bool:
    try:
        return bool((low is None or value >= low) and (high is None or value <= high))
    except TypeError:  # a text where the others have a number
        return False


def _contains(value: Any, wanted: Any) -> bool:
    return isinstance(value, (str, list, tuple, set, frozenset)) and wanted in value


_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda value, wanted: bool(value == wanted),
    "in": lambda value, wanted: any(value == one for one in wanted),
    "range": lambda value, wanted: _in_range(value, *wanted),
    "contains": _contains,
}
_FORM = "{'field': name, 'eq' | 'in' | 'range' | 'contains' | 'exists': value}, {'all' | 'any': [...]}, {'not': ...} or a function"


def predicate(when: Any) -> tuple[Test, str]:
    """(test, its text) of a condition: a function of a Document, or data in the form that `Rules` tells. Raises InputError."""
    if callable(when):
        return when, getattr(when, "__name__", repr(when))
    if not isinstance(when, Mapping):
        raise InputError("Rules: when", got=when, expected=_FORM)
    if len(when) == 1 and (key := next(iter(when))) in ("all", "any", "not"):
        parts = [predicate(part) for part in ([when[key]] if key == "not" else when[key])]
        tests, text = [test for test, _ in parts], f" {key} ".join(f"({text})" for _, text in parts)
        if key == "not":
            return (lambda document: not tests[0](document)), f"not {text}"
        join = all if key == "all" else any
        return (lambda document: join(test(document) for test in tests)), text
    field = when.get("field")
    known = [key for key in when if key in (*_TESTS, "exists")]
    if not isinstance(field, str) or len(known) != 1 or len(when) != 2:
        raise InputError("Rules: when", got=dict(when), expected=_FORM)
    key, wanted = known[0], when[known[0]]
    if key == "exists" and isinstance(wanted, bool):
        return (lambda document: (_value(document, field) is not _ABSENT) == wanted), f"{field} {'exists' if wanted else 'is absent'}"
    if key == "exists" or (key in ("in", "range") and not isinstance(wanted, (list, tuple, set, frozenset))):
        raise InputError(f"Rules: '{key}' of field '{field}'", got=wanted, expected="true or false" if key == "exists" else "a list")
    if key == "range" and len(wanted) != 2:
        raise InputError(f"Rules: 'range' of field '{field}'", got=wanted, expected="[low, high], null where a side is open")
    check = _TESTS[key]
    return (lambda document: (value := _value(document, field)) is not _ABSENT and check(value, wanted)), f"{field} {key} {wanted!r}"


@dataclass(frozen=True)
class _Rule:
    action: str
    value: Any
    test: Test
    text: str


ACTIONS = ("filter", "boost", "add", "bury", "pin")


def _rule(rule: Any) -> _Rule:
    found = [key for key in rule if key in ACTIONS] if isinstance(rule, Mapping) else []
    if len(found) != 1 or set(rule) - {"when", "name", found[0]}:
        expected = "{'when': condition, one of filter, boost, add, bury or pin: value, optionally 'name': text}"
        raise InputError("Rules", got=rule, expected=expected)
    action, value = found[0], rule[found[0]]
    if action == "filter":
        checks.one_of("Rules: filter", value, ("keep", "drop"))
    elif action == "pin":
        checks.count("Rules: pin", value)
    elif action == "bury" and value is not True:
        raise InputError("Rules: bury", got=value, expected="true")
    elif action != "bury":
        checks.finite_number(f"Rules: {action}", value, 0 if action == "boost" else -np.inf)
    test, text = predicate(rule.get("when"))
    return _Rule(action, value, test, str(rule.get("name", text)))


@final
class Rules(Stage):
    """Applies rules, each a mapping {"when": condition, action: value, "name": text for the trace, optional}, in this order of actions:

        1. filter  "drop" leaves out what matches, "keep" what does not
        2. boost   factor f >= 0: score + |score| * (f - 1), which is score * f for scores above 0 and still lifts a negative logit if f > 1
           add     a number, added to the score; boosts and adds come in the order given; then by score, ties in the order that came in
        3. bury    true: below all others, in their order
        4. pin     position p from 1: to that place, or the next that no earlier pin took; overrules bury. A pin moves candidates, it does
                   not bring in documents that no stage retrieved

    A condition is a function of a Document, or data: {"field": f, "eq": value}, {"field": f, "in": [values]},
    {"field": f, "range": [low, high]} (ends count, None is open), {"field": f, "contains": part} (of a list or a text),
    {"field": f, "exists": true}, {"all": [...]}, {"any": [...]}, {"not": ...}. f names metadata, or "_id", "_title", "_text". A document
    without the field, or with a value that cannot be compared, does not match.

    What was done to which document, and why, stands in the trace (`ranking.explain(row)`). With a bury or a pin among the rules the answer
    carries an order: synthetic scores, scale "rank", and the boosted scores in the column "boosted". Raises InputError for other rules.
    """

    def __init__(self, *rules: Mapping[str, Any]) -> None:
        if not rules:
            raise InputError("Rules", got="no rule", expected="at least one")
        self.rules = tuple(_rule(rule) for rule in rules)

    def apply(self, queries: Sequence[Query], rankings: Sequence[Ranking] | None) -> list[Ranking]:
        assert rankings is not None
        return [self._apply(ranking) for ranking in rankings]

    def _apply(self, ranking: Ranking) -> Ranking:
        documents, rows = ranking.documents, ranking.ids.tolist()
        notes: dict[int, list[str]] = {}

        def matching(rule: _Rule, places: Sequence[int]) -> list[int]:
            return [place for place in places if rule.test(documents[place])]

        def note(place: int, text: str, rule: _Rule) -> None:
            notes.setdefault(rows[place], []).append(f"{text}: {rule.text}")

        stay = list(range(len(rows)))
        for rule in self._of("filter"):
            matched, drop = set(matching(rule, stay)), rule.value == "drop"
            for place in stay:
                if (place in matched) == drop:
                    note(place, "dropped" if drop else "dropped, not", rule)
            stay = [place for place in stay if (place in matched) != drop]
        values = ranking.scores.tolist()
        for rule in self._of("boost", "add"):
            for place in matching(rule, stay):
                value = values[place] + (abs(values[place]) * (rule.value - 1) if rule.action == "boost" else rule.value)
                values[place] = min(max(value, LOWEST), -LOWEST)
                note(place, f"boost x{rule.value:g}" if rule.action == "boost" else f"add {rule.value:+g}", rule)
        scores = np.array(values, np.float32)
        stay.sort(key=lambda place: -scores[place])
        order = self._pinned(self._buried(stay, matching, note), matching, note)
        told = {row: "; ".join(lines) for row, lines in notes.items()}
        if not self._of("bury", "pin"):
            return ranking._pick(np.array(order, np.int64), scores=scores[order] if order else scores[:0], notes=told)
        return reordered(ranking, order, boosted=scores[order] if order else scores[:0])._with(notes=told)

    def _of(self, *actions: str) -> list[_Rule]:
        return [rule for rule in self.rules if rule.action in actions]

    def _buried(self, order: list[int], matching: Callable[..., list[int]], note: Callable[..., None]) -> list[int]:
        buried = set()
        for rule in self._of("bury"):
            for place in matching(rule, order):
                buried.add(place)
                note(place, "buried", rule)
        return [place for place in order if place not in buried] + [place for place in order if place in buried]

    def _pinned(self, order: list[int], matching: Callable[..., list[int]], note: Callable[..., None]) -> list[int]:
        at: dict[int, int] = {}  # position from 0 -> place
        for rule in self._of("pin"):
            position = rule.value - 1
            for place in matching(rule, [place for place in order if place not in at.values()]):
                while position in at:
                    position += 1
                at[position] = place
                note(place, f"pinned at {position + 1}", rule)
        rest = [place for place in order if place not in set(at.values())]
        for position in sorted(at):
            rest.insert(position, at[position])  # beyond the end: at the end
        return rest

    def __repr__(self) -> str:
        return f"Rules({', '.join(f'{rule.action} {rule.value}: {rule.text}' for rule in self.rules)})"
