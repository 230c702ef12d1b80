"""A stream of attempts on one champion shares one α, however many versions are sent.

A match promotes a version that is no better with a probability of at most the α that it is decided
with. Twenty such matches with α = 0.05 each promote at least one of twenty equals with up to 64 %.
So the j-th version that is sent against one generation of a champion is matched with 6α/(π²j²);
these shares add up to α, and so does the probability that any of them is promoted wrongly, whatever
the matches have in common (Bonferroni's inequality). The rule is alpha-spending, the simplest that
holds when the number of attempts is not known beforehand: Foster & Stine (2008), and Tian & Ramdas
(2021), https://arxiv.org/abs/1910.04900, who bound the error of a whole stream in this way.

A place in the stream belongs to a version: in another mode, by another gate or sent again it has
the same place, and the same games, so nobody throws the dice twice. It follows from the audit log,
where a submission is opened, and never changes.
"""

import math
import sys

from rlarcade.errors import UnusableRegistryError
from rlarcade.promotion import audit
from rlarcade.promotion.gate import Attempt, Gate
from rlarcade.promotion.registry import Registry
from rlarcade.promotion.states import Submission

_OPENED = ("submission.opened",)


def share(number: int) -> float:
    """Returns the part of α that the attempt of a number (1, 2, 3 …) is decided with."""
    return 6 / (math.pi * number) ** 2


def attempt_of(registry: Registry, current: Submission, gate: Gate) -> Attempt | None:
    """Returns a submission's place among the attempts on its champion; None where there is none.

    Raises:
        UnusableRegistryError: the audit log was altered, or a gate that it names cannot be read.
    """
    if current.champion is None:
        return None
    gates: dict[str, list[str]] = {}
    with registry.reading() as connection:
        for event in audit.read(connection, kinds=_OPENED):
            told = event.document
            where = (told.get("game"), told.get("champion_generation"))
            if where == (current.game, current.champion_generation):
                gates.setdefault(str(told.get("digest")), []).append(str(told.get("gate")))
    if current.digest not in gates:
        raise UnusableRegistryError(
            f"submission {current.id} was altered: the audit log does not tell that version "
            f"{current.version} was sent against this champion. See `promote verify --all`."
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
