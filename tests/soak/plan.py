"""Draw faults from a seed.

Gives    draw() -> Drawn, endlessly; chosen(), which reads FAULTS
Takes    the faults there are, by name and weight; a seed
Raises   ValueError naming what is no fault
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

# Of how long a fault lasts, and of how long nothing happens after it, in seconds.
SHORTEST_S, LONGEST_S = 0.5, 8.0
REST_S = (0.0, 2.0)


@dataclass(frozen=True, slots=True)
class Drawn:
    """One fault of a sequence: the `number`th, how long it lasts, and the rest after it."""

    number: int
    name: str
    lasts_s: float
    rest_s: float
    seed: str  # of whatever else it has to draw


def draw(weights: Mapping[str, float], seed: int, *, pace: float = 1.0) -> Iterator[Drawn]:
    """Yield faults for ever, the same for the same seed: each once, then by weight; `pace`
    stretches all times."""
    names = sorted(weights)
    drawn = random.Random(f"soak {seed}")
    first = drawn.sample(names, len(names))
    for number in itertools.count(1):
        if number <= len(first):
            name = first[number - 1]
        else:
            (name,) = drawn.choices(names, [weights[one] for one in names])
        yield Drawn(
            number,
            name,
            # Most are short, some long: what is away for long meets other limits.
            lasts_s=pace * min(LONGEST_S, SHORTEST_S + drawn.expovariate(0.5)),
            rest_s=pace * drawn.uniform(*REST_S),
            seed=f"{seed} {number}",
        )


def chosen(known: Sequence[str], text: str) -> tuple[str, ...]:
    """Return the faults that a list like `kill.*,postgres.kill` names; all of them for an empty
    one."""
    patterns = [part.strip() for part in text.split(",") if part.strip()]
    found = []
    for pattern in patterns:
        fitting = [name for name in known if fnmatchcase(name, pattern)]
        if not fitting:
            raise ValueError(f"FAULTS: no fault {pattern!r}; there are {', '.join(sorted(known))}")
        found += fitting
    return tuple(dict.fromkeys(found)) or tuple(known)
