import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amp_pipeline.core.envelope import Bad
from amp_pipeline.core.merged_ids import Merge, Pair, chains, cycles, drop_repeats, read_landed, read_made

IDS = st.integers(1, 5)
PAIRS = st.lists(st.tuples(IDS, IDS), max_size=12)
MERGES = st.lists(st.builds(Merge, st.booleans(), st.tuples(st.integers(1, 2), IDS), st.text(max_size=3)), max_size=8)


def test_loser_is_amplitude_id_and_winner_is_merged_amplitude_id():
    line = b'{"merged_amplitude_id":8,"amplitude_id":9,"scope":1}'
    assert read_landed(line) == Merge(False, (9, 8), line.decode())
    assert read_made(line) == Merge(True, (9, 8), line.decode())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"amplitude_id":"\xff"}', Bad("not_utf8", "byte 18")),
        (b'{"amplitude_id":9,"merged_amplitude_id":NaN}', "not_json"),
        (b'{"amplitude_id":9}{}', "trailing_data"),
        (b"[" * 100_000, "too_deep"),
        (b"[9,8]", "not_an_object"),
        (b'{"amplitude_id":9}', Bad("wrong_type", "merged_amplitude_id")),
        (b'{"merged_amplitude_id":9}', Bad("wrong_type", "amplitude_id")),
        (b'{"amplitude_id":null,"merged_amplitude_id":8}', Bad("wrong_type", "amplitude_id")),
        (b'{"amplitude_id":"9","merged_amplitude_id":8}', Bad("wrong_type", "amplitude_id")),
        (b'{"amplitude_id":9,"merged_amplitude_id":8.5}', Bad("wrong_type", "merged_amplitude_id")),
        (b'{"amplitude_id":9,"merged_amplitude_id":true}', Bad("wrong_type", "merged_amplitude_id")),
        (b'{"amplitude_id":9,"merged_amplitude_id":8,"scope":"1"}', Bad("wrong_type", "scope")),
        (b'{"amplitude_id":9,"merged_amplitude_id":8,"merge_time":1.5}', Bad("wrong_type", "merge_time")),
        (b'{"amplitude_id":9,"merged_amplitude_id":8,"merge_server_time":[]}', Bad("wrong_type", "merge_server_time")),
    ],
)
def test_landed_line_that_is_no_merged_id_is_quarantined(line: bytes, expected: Bad | str):
    found = read_landed(line)
    assert isinstance(found, Bad)
    assert expected in (found, found.reason)


@pytest.mark.parametrize(
    "line",
    [b'{"amplitude_id":9.0,"merged_amplitude_id":8e0}', b' {"merged_amplitude_id":8,"amplitude_id":9,"x":"\\ud800"}\t'],
)
def test_landed_line_is_kept_as_it_stands(line: bytes):
    found = read_landed(line)
    assert isinstance(found, Merge)
    assert (found.pair, found.line) == ((9, 8), line)


def test_ids_of_any_size_are_integers():
    found = read_landed(b'{"amplitude_id":%s,"merged_amplitude_id":8}' % (b"9" * 30))
    assert isinstance(found, Merge)
    assert found.pair == (10**30 - 1, 8)


LANDED, MADE = Merge(False, (9, 8), "landed"), Merge(True, (9, 8), "made")


@pytest.mark.parametrize(
    ("merges", "earlier", "kept"),
    [
        ([LANDED, LANDED], [], [LANDED]),
        ([MADE, MADE], [], [MADE]),
        ([LANDED, MADE], [], [LANDED]),
        ([MADE, LANDED], [], [MADE, LANDED]),
        ([LANDED], [LANDED], []),
        ([LANDED], [MADE], [LANDED]),
        ([MADE], [LANDED], []),
        ([MADE], [MADE], []),
        ([LANDED, MADE], [MADE, LANDED], []),
        ([Merge(False, (8, 9), "inverted")], [LANDED], [Merge(False, (8, 9), "inverted")]),
        ([Merge(False, (9, 7), "other winner")], [LANDED], [Merge(False, (9, 7), "other winner")]),
    ],
)
def test_repeat_is_the_same_pair_and_made_never_replaces_landed(
    merges: list[Merge], earlier: list[Merge], kept: list[Merge]
):
    assert drop_repeats(merges, earlier) == kept


@given(MERGES, MERGES)
def test_kept_records_are_those_of_a_slow_obvious_loop(merges: list[Merge], earlier: list[Merge]):
    expected: list[Merge] = []
    for at, merge in enumerate(merges):
        before = [one for one in [*earlier, *merges[:at]] if one.pair == merge.pair and (merge.made or not one.made)]
        if not before:
            expected.append(merge)
    assert drop_repeats(merges, earlier) == expected


def reachable(pairs: list[Pair], start: int) -> set[int]:
    """Ids at the end of one step or more."""
    found: set[int] = set()
    edge = {start}
    while edge:
        edge = {winner for loser, winner in pairs if loser in edge} - found
        found |= edge
    return found


@settings(deadline=None)
@given(PAIRS)
def test_cycles_are_found_exactly_where_a_slow_obvious_search_finds_one(pairs: list[Pair]):
    found = cycles(pairs)
    assert bool(found) == any(one in reachable(pairs, one) for one, _ in pairs)
    for cycle in found:
        assert cycle[0] == min(cycle)
        assert len(set(cycle)) == len(cycle)
        assert all(pair in pairs for pair in zip(cycle, [*cycle[1:], cycle[0]], strict=True))
    assert found == sorted(found) == cycles(reversed(pairs))


@given(st.dictionaries(IDS, IDS))
def test_where_each_id_has_one_winner_every_cycle_is_found(winner_of: dict[int, int]):
    pairs = list(winner_of.items())
    in_cycles = {one for one in winner_of if one in reachable(pairs, one)}
    assert {one for cycle in cycles(pairs) for one in cycle} == in_cycles


def test_long_chain_is_walked():
    assert cycles((number, number + 1) for number in range(500)) == []
    assert len(cycles([*((number, number + 1) for number in range(500)), (500, 0)])[0]) == 501


@given(PAIRS)
def test_chains_are_ids_that_lose_and_win(pairs: list[Pair]):
    assert chains(pairs) == sum(any(one == winner for _, winner in pairs) for one in {loser for loser, _ in pairs})
