"""All attempts on one champion share one α, however many versions are submitted.

A match promotes a version that is no better with probability at most its α. With α = 0.05 each,
twenty such matches promote at least one of twenty equal versions with probability up to 64 %. So
the j-th version that is submitted against one generation of a champion is matched with 6α/(π²j²).
These shares add up to α. By Bonferroni's inequality, α also bounds the probability that any of the
versions is promoted wrongly, even if the matches depend on each other. The rule is alpha-spending,
the simplest one that holds when the number of attempts is unknown beforehand: Foster & Stine
(2008), and Tian & Ramdas (2021), https://arxiv.org/abs/1910.04900, who bound the error of a whole
stream of tests in this way.

A version keeps its place in the stream and its games in another mode, with another gate and when it
is submitted again. So nobody gets a second chance. The place follows from the `submission.opened`
entries of the audit log and never changes.
"""

import math
import sys

from rlarcade.errors import UnusableRegistryError
from rlarcade.promotion.gate import Attempt, Gate
from rlarcade.registry.registry import Registry
from rlarcade.registry.states import Submission

_OPENED = ("submission.opened",)


def share(number: int) -> float:
    """Returns the share of α for the attempt with this number (1, 2, 3 …)."""
    return 6 / (math.pi * number) ** 2


def attempt_of(registry: Registry, current: Submission, gate: Gate) -> Attempt | None:
    """Returns a submission's place among the attempts on its champion; None without a champion.

    Raises:
        UnusableRegistryError: the audit log was altered, or a gate that it names cannot be read.
    """
    if current.champion is None:
        return None
    gates: dict[str, list[str]] = {}
    for event in registry.events(kinds=_OPENED):
        told = event.document
        where = (told.get("game"), told.get("champion_generation"))
        if where == (current.game, current.champion_generation):
            gates.setdefault(str(told.get("digest")), []).append(str(told.get("gate")))
    if current.digest not in gates:
        raise UnusableRegistryError(
            f"submission {current.id} was altered: according to the audit log, version "
            f"{current.version} was never submitted against this champion. For details run "
            "`promote verify --all`."
        )
    number = 1 + list(gates).index(current.digest)
    budgets = {name: _budget(registry, name) for names in gates.values() for name in names}
    earlier = list(gates.values())[: number - 1]
    spent = sum(
        share(place) * max(budgets[name] for name in names)
        for place, names in enumerate(earlier, start=1)
    )
    alpha = max(share(number) * gate.match.alpha, sys.float_info.min)
    return Attempt(number=number, alpha=alpha, budget=gate.match.alpha, spent=spent + alpha)


def _budget(registry: Registry, gate: str) -> float:
    return registry.get_document(gate, Gate).match.alpha
