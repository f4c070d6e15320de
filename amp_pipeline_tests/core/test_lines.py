import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_pipeline.core.lines import BYTE_ORDER_MARK, Block, block_of, is_blank, left_out, split, split_stored

LINES = st.lists(st.binary(max_size=4).map(lambda line: line.replace(b"\n", b"")), max_size=8)
TEXTS = st.lists(
    st.sampled_from([b"a", b"{}", b"\n", b"\r", b"\r\n", b" ", b"\t", BYTE_ORDER_MARK, b"\xef", b"\0"])
).map(b"".join)


def lines(*blocks: bytes) -> list[bytes]:
    return [line for found in split(blocks) for line in found.lines]


def obvious(text: bytes) -> list[bytes]:
    *ended, rest = text.split(b"\n")
    return [line.removesuffix(b"\r").removeprefix(BYTE_ORDER_MARK) for line in ended] + (
        [rest.removeprefix(BYTE_ORDER_MARK)] if rest else []
    )


@given(TEXTS, st.integers(1, 5))
def test_size_of_blocks_changes_nothing(text: bytes, size: int):
    assert lines(*[text[at : at + size] for at in range(0, len(text), size)]) == obvious(text)


@given(TEXTS)
def test_without_carriage_returns_and_marks_lines_join_to_what_was_read(text: bytes):
    plain = text.replace(b"\r", b"").replace(BYTE_ORDER_MARK, b"").replace(b"\xef", b"")
    assert b"".join(line + b"\n" for line in lines(plain)) == plain + (b"\n" if plain and plain[-1:] != b"\n" else b"")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", []),
        (b"a", [b"a"]),
        (b"a\n", [b"a"]),
        (b"a\n\nb\n", [b"a", b"", b"b"]),
        (b"a\r\nb\r\r\n", [b"a", b"b\r"]),
        (b"a\rb\n", [b"a\rb"]),
        (b"a\nb\r", [b"a", b"b\r"]),
        (BYTE_ORDER_MARK + b"a\n" + BYTE_ORDER_MARK + b"b", [b"a", b"b"]),
        (BYTE_ORDER_MARK * 2 + b"a\n", [BYTE_ORDER_MARK + b"a"]),
        (b"a" + BYTE_ORDER_MARK + b"\n", [b"a" + BYTE_ORDER_MARK]),
        (BYTE_ORDER_MARK + b"\r\n", [b""]),
        (b"a\x0bb\x0cc\x85d\xe2\x80\xa8e\n", [b"a\x0bb\x0cc\x85d\xe2\x80\xa8e"]),
    ],
)
def test_lines_of(text: bytes, expected: list[bytes]):
    assert lines(text) == expected


def test_blank_is_spaces_tabs_and_carriage_returns_alone():
    assert all(map(is_blank, [b"", b" ", b"\t \r"]))
    assert not any(map(is_blank, [b"{}", b"\x0b", b"\xc2\xa0", b"\0"]))


@given(TEXTS, st.integers(1, 5))
def test_blocks_hold_whole_lines_and_none_is_empty(text: bytes, size: int):
    blocks = list(split(text[at : at + size] for at in range(0, len(text), size)))
    assert all(block.text.endswith(b"\n") for block in blocks)


@given(st.lists(st.binary(max_size=4)))
def test_what_was_packed_is_read_back_as_it_is_without_what_has_no_line_end(pieces: list[bytes]):
    *ended, _ = b"".join(pieces).split(b"\n")
    assert [line for block in split_stored(pieces) for line in block.lines] == ended


@given(LINES)
def test_block_knows_where_its_lines_are(lines: list[bytes]):
    block = block_of(lines)
    assert block.lines == lines
    assert len(block) == len(lines)
    assert [block.line(number) for number in range(len(lines))] == lines
    assert block.text == b"".join(line + b"\n" for line in lines)
    assert [block.text[s:e] for s, e in zip(block.starts.tolist(), block.ends.tolist(), strict=True)] == lines


@given(LINES, st.integers(0, 10))
def test_first_lines_of_a_block(lines: list[bytes], count: int):
    assert block_of(lines).first(count).lines == lines[:count]


@given(LINES, st.integers(1, 20))
def test_pieces_of_a_block_are_its_lines_again_and_no_larger_than_need_be(lines: list[bytes], size: int):
    pieces = list(block_of(lines).pieces(size))
    assert [line for piece in pieces for line in piece.lines] == lines
    for piece in pieces:
        assert len(piece) > 0
        assert len(piece.text) - len(piece.lines[-1]) - 1 < size


def test_block_without_lines():
    assert (len(Block(b"")), Block(b"").lines, Block(b"").starts.tolist(), Block(b"").ends.tolist()) == (0, [], [], [])
    assert block_of([]).text == b""
    assert list(Block(b"").pieces(5)) == []


@given(st.lists(st.integers(0, 30), max_size=6), st.integers(1, 7), st.booleans())
def test_of_a_line_that_is_too_long_the_rest_is_counted(lengths: list[int], size: int, ended: bool):
    text = b"\n".join(b"x" * length for length in lengths) + b"\n" * ended
    blocks = [text[at : at + size] for at in range(0, len(text), size)]
    found = [line for block in split(blocks, most=10) for line in block.lines]
    whole = obvious(text)
    assert len(found) == len(whole)
    for line, original in zip(found, whole, strict=True):
        assert left_out(line) == max(0, len(original) - 10)
        assert line[:10] == original[:10]


def test_what_is_too_long_is_held_in_memory_nowhere():
    (long,) = [line for block in split(b"x" * (1 << 20) for _ in range(300)) for line in block.lines]
    assert len(long) < 70_000
    assert left_out(long) == (300 << 20) - (64 << 10)
