"""Hypothesis' way to make histories, and a search through them by seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from puller.errors import PullerError
from tests.lab.simulated import Failure
from tests.upkeep.simulation import Step, play

_ACTIONS = ["backup"] * 4 + ["begin"] * 2 + ["commit"] * 3 + ["prune"] * 4
_ACTIONS += ["wait"] * 3 + ["delete"] * 2 + ["keep"] * 2 + ["release", "write", "lose cache"]
_PICKS = st.tuples(*[st.integers(0, 239)] * 16)
_TURN = st.integers(0, 39)
_FAILURES = st.none() | st.none() | st.tuples(_TURN, st.sampled_from(Failure))
_OTHERS = st.lists(st.builds(Step, st.sampled_from(_ACTIONS), _PICKS, _FAILURES), min_size=1, max_size=4)
_MEANWHILE = st.none() | st.none() | st.tuples(_TURN, _OTHERS.map(tuple))
_STEPS = st.builds(Step, st.sampled_from(_ACTIONS), _PICKS, _FAILURES, _MEANWHILE)

HISTORIES = st.tuples(*[st.lists(_STEPS, max_size=8)] * 5).map(
    lambda parts: [s for part in parts for s in part]
)
"""Some twenty steps; in five parts, since Hypothesis likes lists to be short."""


def quick(examples: int) -> settings:
    """Settings for this many histories, made smaller where one fails."""
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


@dataclass
class Batch:
    """The histories of one seed. ``played`` counts them, up to the first that failed."""

    seed: int
    folder: Path
    failed: bool = field(default=False, init=False)
    played: int = field(default=0, init=False)

    def run(self, examples: int, phases: Sequence[Phase] = tuple(Phase)) -> None:
        """Raises what the smallest failing history raises."""
        test = given(HISTORIES)(self._play)
        _seeded(self.seed, settings(quick(examples), phases=phases)(test))()

    def _play(self, history: list[Step]) -> None:
        self.played += not self.failed
        try:
            play(history, self.folder)
        except BaseException:
            self.failed = True
            raise


def _seeded(number: int, test: Callable[[], None]) -> Callable[[], None]:
    return seed(number)(test)


def found_by(folder: Path, seeds: Sequence[int], examples: int) -> Batch | None:
    """The first batch in which a history fails."""
    for number in seeds:
        batch = Batch(number, folder)
        try:
            batch.run(examples, (Phase.generate,))
        except (AssertionError, PullerError):  # a prune that refuses has seen it, too
            return batch
    return None
