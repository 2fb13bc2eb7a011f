"""The index as a run uses it, against a model."""

from __future__ import annotations

import os
import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.repository.index.world import PACKS, Described, World, id_of

described = st.tuples(st.integers(0, PACKS - 1), st.integers(0, 3))


class Machine(RuleBasedStateMachine):
    """Runs that open, find and add, while index objects and packs come and go between them."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World({})
        self.names = 0
        self.repository_id = os.urandom(16)

    @initialize()
    def begin(self) -> None:
        self.opened = self.world.open(self.repository_id)

    @rule(packs=st.lists(described, max_size=4))
    def put(self, packs: list[Described]) -> None:
        self.names += 1
        self.world.objects[f"index/{self.names}"] = packs
        for pack, level in packs:
            self.world.levels[pack] = max(level, self.world.levels.get(pack, 0))
        self.reopen(set())

    @precondition(lambda self: self.world.objects)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        del self.world.objects[data.draw(st.sampled_from(sorted(self.world.objects)))]

    @precondition(lambda self: self.world.levels)
    @rule(data=st.data())
    def prune(self, data: st.DataObject) -> None:
        """Some packs vanish or become less, though index objects go on naming them."""
        for pack in data.draw(st.sets(st.sampled_from(sorted(self.world.levels)), max_size=3)):
            if pack % 2:
                del self.world.levels[pack]
            else:
                self.world.levels[pack] = min(3, self.world.levels[pack] + 1)
        self.reopen(set())

    @rule(avoided=st.sets(st.integers(0, PACKS - 1), max_size=3))
    def reopen(self, avoided: set[int]) -> None:
        self.opened.index.close()
        self.opened = self.world.open(self.repository_id, {id_of(pack) for pack in avoided})
        self.opened.check()

    @rule(first=st.integers(0, 100), count=st.integers(1, 130), seed=st.integers(0, 5))
    def add(self, first: int, count: int, seed: int) -> None:
        keys = [random.Random(1000 * seed + number).randbytes(16) for number in range(first, first + count)]
        for slot, key in enumerate(keys):
            self.opened.add(key, b"a pack of mine..", slot)
        assert None not in self.opened.find(keys[-50:])

    @rule()
    def find(self) -> None:
        self.opened.check_nothing_wrong()

    def teardown(self) -> None:
        if hasattr(self, "opened"):
            self.opened.index.close()


def test_runs_agree_with_a_model() -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
