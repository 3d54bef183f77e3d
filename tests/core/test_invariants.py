"""What must be true of the queue: sums of steps, mending told, content that is nowhere."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from mailcore.invariants import (
    MOST_EXAMPLES,
    OF_LEDGER,
    OF_NODE,
    RULES,
    SWEEPS_S,
    Finding,
    Invariant,
    Mend,
    Shelf,
    StateAge,
    Tally,
    is_lost,
    mended_since,
    oldest_by_state,
    orphans,
    wanted_mends,
)
from mailcore.outcome import RowState
from mailcore.spool import LiveSegment, SegmentInfo

IDS = st.lists(st.integers(1, 1000), min_size=1, max_size=30)


def test_every_invariant_has_a_rule_and_a_place() -> None:
    assert set(RULES) == set(Invariant) == {*OF_LEDGER, *OF_NODE}
    assert not set(OF_LEDGER) & set(OF_NODE)
    assert all(rule.words.endswith(".") and rule.grace_s >= 0 for rule in RULES.values())


@given(st.lists(IDS, min_size=1, max_size=8))
def test_a_tally_counts_all_and_names_the_first(steps: list[list[int]]) -> None:
    tally = Tally()
    for ids in steps:
        tally.add([Finding(Invariant.EXPIRED, len(ids), tuple(ids[:MOST_EXAMPLES]))])
    (one,) = tally.findings
    assert one.count == sum(map(len, steps))
    named = [row_id for ids in steps for row_id in ids[:MOST_EXAMPLES]]
    assert list(one.examples) == named[:MOST_EXAMPLES]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(["", "new", "retry"]),
            st.integers(1, 50),
            st.floats(0, 1e6),
        ),
        max_size=20,
    )
)
def test_ages_are_the_oldest_of_all_steps(parts: list[tuple[int, str, int, float]]) -> None:
    tally = Tally()
    for part in parts:
        tally.add_ages([StateAge(*part)])
    assert sum(age.rows for age in tally.ages) == sum(part[2] for part in parts)
    oldest = oldest_by_state(tally.ages)
    for state in RowState:
        assert oldest[state] == max((part[3] for part in parts if part[0] == state), default=0.0)


def test_a_state_that_nobody_knows_has_no_age_of_its_own() -> None:
    assert set(oldest_by_state([StateAge(9, "", 1, 5.0)]).values()) == {0.0}


def test_what_a_chore_can_mend_is_told_as_mended_and_what_is_left_stands() -> None:
    before = [
        Finding(Invariant.EXPIRED, 5, (1, 2)),
        Finding(Invariant.LANE_COUNTS, 1, (7,)),
        Finding(Invariant.NO_REASON, 3, (4,)),
    ]
    after = [Finding(Invariant.EXPIRED, 2, (2,)), Finding(Invariant.NO_OWNER, 1, (9,))]
    assert wanted_mends(before) == {Mend.EXPIRE, Mend.RECOUNT}
    assert wanted_mends(after[1:]) == frozenset()
    assert mended_since(before, after) == [
        Finding(Invariant.NO_OWNER, 1, (9,)),
        Finding(Invariant.EXPIRED, 2, (2,), mended=3),
        Finding(Invariant.LANE_COUNTS, 0, (7,), mended=1),
    ]


@given(st.dictionaries(st.sampled_from(list(Invariant)), st.integers(1, 9)), st.data())
def test_mending_never_tells_more_than_there_was(
    counts: dict[Invariant, int], data: st.DataObject
) -> None:
    left = {one: data.draw(st.integers(0, number + 2)) for one, number in counts.items()}
    before = [Finding(one, number) for one, number in counts.items()]
    after = [Finding(one, number) for one, number in left.items() if number]
    for one in mended_since(before, after):
        assert one.count == left[one.invariant]
        assert 0 <= one.mended <= counts[one.invariant]
        assert one.mended == 0 or RULES[one.invariant].mend is not Mend.NOBODY


def shelf(age_s: float | None, *segments: int) -> Shelf:
    return Shelf("n2", age_s, frozenset(segments))


def test_on_the_only_node_what_is_not_there_is_lost() -> None:
    assert is_lost(7, others=[], doubted_s=None)


def test_among_several_nodes_it_is_lost_once_all_others_have_looked_since() -> None:
    cases: Sequence[tuple[Sequence[Shelf], float | None, bool]] = [
        ([shelf(10, 1)], None, False),  # missed for the first time
        ([shelf(10, 1)], 20, True),
        ([shelf(30, 1)], 20, False),  # its word is older than the doubt
        ([shelf(10, 7)], 20, False),  # it has it
        ([shelf(10, 1), shelf(None)], 20, False),  # one has never said
        ([shelf(10, 1), shelf(10, 7)], 20, False),
    ]
    for others, doubted_s, is_it in cases:
        assert is_lost(7, others=others, doubted_s=doubted_s) is is_it


def test_segments_are_orphans_only_when_sweeps_have_failed_to_take_them() -> None:
    def segment(number: int, age_s: float, *, is_sealed: bool = True) -> SegmentInfo:
        return SegmentInfo(number, 2**20, age_s, is_sealed)

    late = 100 + 50 + SWEEPS_S + 1
    segments = [
        segment(1, late),
        segment(2, late),
        segment(3, late, is_sealed=False),
        segment(4, 100 + 50 + 1),  # the next sweep takes it
    ]
    live = {2: LiveSegment(2, 1, 10, 1, 0)}
    found = orphans(segments, live, grace_s=100, retention_s=50)
    assert found == Finding(Invariant.CONTENT_ORPHANED, 1, (1,), "1.0 MB")
    assert orphans(segments[1:], live, grace_s=100, retention_s=50) is None
