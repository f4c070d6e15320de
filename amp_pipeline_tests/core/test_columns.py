import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amp_pipeline.core import columns, envelope, identity
from amp_pipeline.core.columns import Columns, Reader
from amp_pipeline.core.envelope import Bad, Envelope, read_line
from amp_pipeline.core.lines import Block, block_of
from amp_pipeline_tests.core.strategies import KEYS, ODD_LINES, blocks

FIELDS = [name for name in Envelope.__struct_fields__ if name != "data"]
NOTHING: list[Any] = [(type(None), None)] * len(FIELDS)


def fields(event: Any) -> list[Any]:
    """With their types: 5 and 5.0 are not the same here."""
    return [(type(getattr(event, name)), getattr(event, name)) for name in FIELDS]


def by_line(line: bytes) -> Any:
    found = read_line(line)
    if not isinstance(found, Envelope):
        return found, NOTHING, None, 0
    merged = found.data.merged_amplitude_id if found.data else None
    return "event", fields(found), merged, identity.content_digest(line, found)


def by_column(found: Columns) -> list[Any]:
    assert len(found.events) == len(found.merged) == len(found.contents)
    return [
        (found.refused.get(position, "event"), fields(event), found.merged[position], found.contents[position])
        for position, event in enumerate(found.events)
    ]


def agree(reader: Reader, lines: list[bytes]) -> bool:
    return by_column(reader.read(block_of(lines))) == list(map(by_line, lines))


@settings(deadline=None, max_examples=80)
@given(blocks(), st.sampled_from([1, 40, 1000, columns.PIECE_BYTES]), st.sampled_from([0, 4, columns.MOST_KEYS]))
def test_every_line_is_read_as_it_is_alone(several: list[list[bytes]], piece_bytes: int, most_keys: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "PIECE_BYTES", piece_bytes)
        patch.setattr(columns, "MOST_KEYS", most_keys)
        reader = Reader()
        for lines in several:
            assert agree(reader, lines)


@settings(deadline=None)
@given(blocks(), st.randoms())
def test_what_was_learnt_before_does_not_show(several: list[list[bytes]], random: Any):
    reader = Reader()
    for lines in several:
        reader.read(block_of(lines))
    for lines in random.sample(several, len(several)):
        assert agree(reader, lines)
        assert agree(Reader(), lines)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=6).map(lambda text: text.replace(b"\n", b"")), min_size=1, max_size=4))
def test_any_bytes_are_read_as_they_are_alone(lines: list[bytes]):
    assert agree(Reader(), lines)


@pytest.mark.parametrize("line", ODD_LINES, ids=lambda line: repr(line[:20]))
def test_odd_line_is_read_alike_alone_and_among_others(line: bytes):
    good = b'{"app":7,"city":"a"}'
    reader = Reader()
    for lines in ([line], [good, line, good], [line, line], [line, good], [good] * 3):
        assert agree(reader, lines)
        assert agree(Reader(), lines)


@pytest.mark.parametrize("name", [*FIELDS, "data"])
@pytest.mark.parametrize("value", [5, "5", True, 1.5, [], {}, None, 2**64, -(2**63) - 1, "\ud800", 10**400])
def test_fields_of_any_type(name: str, value: Any):
    name = "$insert_id" if name == "insert_id" else name
    lines = [json.dumps(fields).encode() for fields in ({name: value}, {"x": 1, name: value}, {"app": 7}, {"x": 1})]
    lines.append(b'{"%s":%s,"%s":null}' % (name.encode(), json.dumps(value).encode(), name.encode()))
    assert agree(Reader(), lines)


@pytest.mark.parametrize("key", ['"', "\\", "a\\b", "\n", "\0", "\x1f"])
def test_keys_that_no_field_may_be_named_as(key: str):
    reader = Reader()
    for lines in ([{key: 1}], [{}, {key: 1, "app": 7}, {"y": 1}], [{"z": 1}, {key: 2}]):
        assert agree(reader, [json.dumps(line).encode() for line in lines])


@settings(deadline=None)
@given(KEYS, st.booleans())
def test_any_key_is_learnt(key: str, escaped: bool):
    line = json.dumps({key: None, "x": 1}, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    reader = Reader()
    assert agree(reader, [b"{}", line, line])
    assert agree(reader, [line, b'{"y":1}'])


def test_more_keys_than_are_learnt(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(columns, "MOST_KEYS", 5)
    reader = Reader()
    for start in range(8):
        lines = [json.dumps({f"k{n}": n for n in range(start, start + 3)}).encode() for _ in range(2)]
        assert agree(reader, lines)
    assert len(reader._keys) <= 5


def test_lines_with_more_keys_each_than_are_learnt():
    many = [json.dumps({f"k{n}": n for n in range(at, at + columns.MOST_KEYS + 1)}).encode() for at in range(3)]
    assert agree(Reader(), [b'{"app":7}', *many, b'{"app":7}'])


def test_good_lines_of_several_shapes_are_read_in_one_go(monkeypatch: pytest.MonkeyPatch):
    shapes = [{"app": 7, "city": 1}, {"b": [1], "app": 7}, {"region": 2}, {"data": {"merged_amplitude_id": 5}}, {}]
    lines = [json.dumps(shapes[number % 5]).encode() for number in range(20)]
    # Keys that are new when much was read.
    lines += [json.dumps({**shapes[number % 5], f"new {number // 3}": 1}).encode() for number in range(20)]
    expected = list(map(by_line, lines))
    monkeypatch.setattr(Reader, "_one", None)
    monkeypatch.setattr(columns, "PIECE_BYTES", 70)
    assert by_column(Reader().read(block_of(lines))) == expected


def test_bad_line_makes_few_others_slow(monkeypatch: pytest.MonkeyPatch):
    lines = [b'{"app":7}'] * 100
    lines[50] = b'{"app":7'
    slow: list[bytes] = []
    one = Reader._one
    monkeypatch.setattr(columns, "PIECE_BYTES", 100)
    monkeypatch.setattr(Reader, "_one", lambda self, line, found: (slow.append(line), one(self, line, found)))
    assert agree(Reader(), lines)
    assert lines[50] in slow
    assert len(slow) <= 11


def test_brackets_of_many_lines_are_not_counted_together(monkeypatch: pytest.MonkeyPatch):
    lines = [b'{"a":[[],[],{}],"b":"[[["}'] * 500
    expected = list(map(by_line, lines))
    monkeypatch.setattr(Reader, "_one", None)
    assert by_column(Reader().read(block_of(lines))) == expected


@pytest.mark.parametrize("levels", [envelope.MOST_LEVELS, envelope.MOST_LEVELS + 1])
@pytest.mark.parametrize(
    "before", [0, 1, 55, 62, 63, 64, 65, 200, (64 << 10) - 300, (64 << 10) - 70, (64 << 10) - 9, 200_000]
)
def test_depth_is_counted_wherever_the_line_begins(levels: int, before: int):
    deep = b'{"x":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"
    found = Reader().read(block_of([b'{"a":"' + b"x" * before + b'"}', deep, b"{}"]))
    assert found.refused == ({1: Bad("too_deep", "")} if levels > envelope.MOST_LEVELS else {})


def test_without_contents_all_else_is_the_same():
    lines = [b'{"app":7,"x":1}', b'{"data":{"merged_amplitude_id":5}}', b'{"app":7}']
    found, whole = Reader(contents=False).read(block_of(lines)), Reader().read(block_of(lines))
    assert found.contents == []
    assert (list(map(fields, found.events)), found.merged) == (list(map(fields, whole.events)), whole.merged)
    lines.insert(1, b"bad")
    assert Reader(contents=False).read(block_of(lines)).refused == Reader().read(block_of(lines)).refused


def test_no_lines():
    assert Reader().read(Block(b"")) == Columns()
