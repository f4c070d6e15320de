import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_pipeline.core.lines import BYTE_ORDER_MARK, is_blank, split

TEXTS = st.lists(
    st.sampled_from([b"a", b"{}", b"\n", b"\r", b"\r\n", b" ", b"\t", BYTE_ORDER_MARK, b"\xef", b"\0"])
).map(b"".join)


def lines(*blocks: bytes) -> list[bytes]:
    return [line for found in split(blocks) for line in found]


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
