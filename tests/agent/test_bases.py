"""How far back the search for a base has to go."""

from __future__ import annotations

from puller.agent.bases import oldest_of
from puller.hypervisor.checkpoint import checkpoint_name

REPOSITORY = "0123456789abcdef" * 2


def test_no_point_of_the_second_of_the_oldest_checkpoint_is_behind_it() -> None:
    """Two points of one second are in no order by their ids, and the newer one may come first."""
    names = [checkpoint_name(REPOSITORY, f"20261123T05000{second}Z-80000000") for second in (2, 1)]
    oldest = oldest_of([*names, "a-stranger-s"], REPOSITORY)
    assert oldest <= "20261123T050001Z-00000000"
    assert oldest > "20261123T050000Z-ffffffff"
    assert oldest_of(["a-stranger-s"], REPOSITORY) > "99991231T235959Z-ffffffff"
