"""Fair shares: by owner first, then by lane; nothing is given twice and nothing is left over."""

from hypothesis import given
from hypothesis import strategies as st

from mailcore.shaping.fair import Demand, share_budget


def test_room_is_shared_by_owner_first_then_by_lane() -> None:
    demands = [Demand(1, 1, 100), Demand(2, 1, 100), Demand(3, 2, 100)]
    assert share_budget(40, demands) == {1: 10, 2: 10, 3: 20}


def test_what_one_does_not_want_goes_to_the_others() -> None:
    assert share_budget(40, [Demand(1, 1, 4), Demand(2, 2, 100)]) == {1: 4, 2: 36}


def test_over_many_turns_a_single_place_goes_round() -> None:
    demands = [Demand(n, n, 10) for n in (1, 2, 3)]
    winners = [next(iter(share_budget(1, demands, turn=turn))) for turn in range(6)]
    assert sorted(winners) == [1, 1, 2, 2, 3, 3]


@given(
    st.integers(0, 500),
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 60)), max_size=12),
    st.integers(0, 9),
)
def test_what_is_given_is_all_there_is_or_all_that_is_wanted(
    room: int, wants: list[tuple[int, int]], turn: int
) -> None:
    demands = [Demand(number, owner, wanted) for number, (owner, wanted) in enumerate(wants)]
    shares = share_budget(room, demands, turn=turn)
    assert sum(shares.values()) == min(room, sum(wanted for _, wanted in wants))
    assert all(0 < shares[lane] <= demands[lane].wanted for lane in shares)
