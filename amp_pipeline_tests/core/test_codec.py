import gzip
import hashlib
import io
import subprocess
import threading
import time
import zlib
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from amp_pipeline.core import codec
from amp_pipeline.core.codec import (
    BLOCK_BYTES,
    Compression,
    LinePacker,
    Part,
    PartSize,
    PartsPacker,
    pack_one,
    pack_whole,
    unpack,
)
from amp_pipeline.core.errors import DamagedObjectError
from amp_pipeline.core.lines import block_of
from amp_pipeline.core.overlap import Behind

TEXT = b"".join(b'{"n":%d}\n' % number for number in range(50))
LONG_TEXT = b"".join(b'{"n":%d}\n' % number for number in range(30_000))
ZSTD = zstandard.ZstdCompressor(write_checksum=True)


def unpacked(data: bytes, size: int = 1 << 20, name: str = "a.json.gz") -> bytes:
    return b"".join(unpack([data[at : at + size] for at in range(0, len(data), size)], name))


def before_damage(data: bytes, size: int = 1 << 20, name: str = "a.json.gz", **how: bool) -> bytes:
    """What is read of a damaged object."""
    found = io.BytesIO()
    with pytest.raises(DamagedObjectError, match=name):
        found.writelines(unpack([data[at : at + size] for at in range(0, len(data), size)], name, **how))
    return found.getvalue()


GZIPPED = gzip.compress(TEXT, mtime=0)
PACKED = {
    "gzip": GZIPPED,
    "gzip with a name": b"\x1f\x8b\x08\x08" + bytes(6) + b"name\0" + GZIPPED[10:],
    "gzip with a name and a comment": b"\x1f\x8b\x08\x18" + bytes(6) + b"name\0comment\0" + GZIPPED[10:],
    "gzip members": gzip.compress(TEXT[:100]) + gzip.compress(b"") + gzip.compress(TEXT[100:]),
    "gzip and padding": GZIPPED + bytes(1000),
    "stored gzip": gzip.compress(TEXT, 0),
    "zstd": ZSTD.compress(TEXT),
    "zstd frames": ZSTD.compress(TEXT[:100]) + ZSTD.compress(b"") + ZSTD.compress(TEXT[100:]),
    "plain": TEXT,
}


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.json.zst"])
@pytest.mark.parametrize("form", PACKED)
def test_first_bytes_tell_how_an_object_is_packed_not_its_name(form: str, name: str):
    assert unpacked(PACKED[form], name=name) == TEXT


@pytest.mark.parametrize("form", PACKED)
def test_size_of_chunks_changes_nothing(form: str):
    for size in range(1, 30):
        assert unpacked(PACKED[form], size) == TEXT


@pytest.mark.parametrize("size", [BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES])
def test_well_packed_object_is_handed_on_in_blocks(size: int):
    text = bytes(size)
    for packed in (gzip.compress(text, mtime=0), gzip.compress(text, mtime=0) * 2, ZSTD.compress(text)):
        blocks = list(unpack([packed], "a.json.gz"))
        assert b"".join(blocks) == text * (2 if packed.count(b"\x1f\x8b\x08") == 2 else 1)
    assert max(map(len, unpack([gzip.compress(text, mtime=0)], "a.json.gz"))) <= BLOCK_BYTES


def test_gzip_truncated_at_any_byte_is_damaged_and_a_beginning_of_it_is_read():
    for end in range(len(GZIPPED)):
        assert TEXT.startswith(before_damage(GZIPPED[:end]))
    assert before_damage(GZIPPED[:-8]) == before_damage(GZIPPED[:-1]) == TEXT


def test_zstd_that_packs_very_well_is_unpacked_in_small_blocks():
    packed = zstandard.ZstdCompressor(level=19).compress(b"x" * (300 << 20))
    assert len(packed) < 64 << 10
    sizes = [len(block) for block in codec.unpack([packed], "a.zst")]
    assert sum(sizes) == 300 << 20
    assert max(sizes) <= 34 << 20


def test_zstd_truncated_at_any_byte_is_damaged():
    packed = PACKED["zstd"]
    for end in range(len(packed)):
        assert TEXT.startswith(before_damage(packed[:end], name="a.json.zst"))


def test_second_member_cut_off_leaves_the_first():
    assert before_damage(GZIPPED + GZIPPED[:1]) == TEXT
    assert before_damage(GZIPPED + GZIPPED[:20]).startswith(TEXT)
    assert before_damage(PACKED["zstd"] + PACKED["zstd"][:9]) == TEXT


@pytest.mark.parametrize("junk", [b"junk", b"\0\0junk", TEXT])
def test_something_else_behind_the_last_member_is_damage(junk: bytes):
    assert before_damage(GZIPPED + junk) == TEXT


@pytest.mark.parametrize("at", [-8, -1])
def test_wrong_checksum_or_length_is_damage(at: int):
    broken = bytearray(GZIPPED)
    broken[at] ^= 1
    assert TEXT.startswith(before_damage(bytes(broken)))
    broken = bytearray(PACKED["zstd"])
    broken[-1] ^= 1
    assert TEXT.startswith(before_damage(bytes(broken), name="a.json.zst"))


@pytest.mark.parametrize("size", [10, 1000, 1 << 20])
@pytest.mark.parametrize("packer", [lambda text: gzip.compress(text, mtime=0), ZSTD.compress], ids=["gzip", "zstd"])
def test_all_bytes_before_the_damage_are_read_if_wanted_whatever_the_chunks(packer, size: int):
    broken = bytearray(packer(LONG_TEXT))
    broken[-3] ^= 1
    assert before_damage(bytes(broken), size, to_the_damage=True) == LONG_TEXT
    assert before_damage(packer(TEXT) + bytes(broken), size, to_the_damage=True) == TEXT + LONG_TEXT
    broken[len(broken) // 2] ^= 0xFF
    found = before_damage(bytes(broken), size, to_the_damage=True)
    assert found == before_damage(bytes(broken), 7, to_the_damage=True)


@pytest.mark.parametrize("form", PACKED)
def test_whole_object_reads_alike_to_its_end_and_to_the_damage(form: str):
    data = PACKED[form]
    for size in (1, 13, 1 << 20):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert b"".join(unpack(pieces, "a.json.gz", to_the_damage=True)) == TEXT


@pytest.mark.parametrize("name", ["a.json.gz", "a.json.zst"])
def test_packed_object_without_bytes_is_damaged_and_a_plain_one_is_empty(name: str):
    with pytest.raises(DamagedObjectError, match=f"{name} ends after 0 bytes"):
        list(unpack([], name))
    assert list(unpack([], "a.json")) == []


def test_same_lines_give_the_same_bytes_without_time_or_name():
    lines = TEXT.splitlines()
    one, other = pack_one(lines), pack_one(iter(lines))
    assert one is not None
    assert other is not None
    assert one.data == other.data
    flags, time = one.data[3], one.data[4:8]
    assert one.data[:3] == b"\x1f\x8b\x08"
    assert (flags, time) == (0, bytes(4))
    assert zlib.decompress(one.data, 31) == TEXT


def test_part_knows_what_is_in_it():
    part = pack_one([b"{}", b"", b"abc"])
    assert part is not None
    assert (part.rows, part.unpacked_bytes) == (3, 8)
    assert unpacked(part.data) == b"{}\n\nabc\n"
    assert len(part.sha256) == 64


def test_no_lines_are_no_part():
    assert pack_one([]) is None
    assert parts_of([], PartSize(events=1)) == []
    nothing = pack_whole([])
    assert (nothing.rows, nothing.unpacked_bytes, unpacked(nothing.data)) == (0, 0, b"")


def parts_of(lines: list[bytes], size: PartSize, *, cuts: list[int] | None = None, **how: Any) -> list[Part]:
    """The parts of lines that come in blocks, cut before the lines of those numbers."""
    parts: list[Part] = []
    at = [0, *sorted(cuts or []), len(lines)]
    with PartsPacker(size, parts.append, **how) as packer:
        for start, end in zip(at[:-1], at[1:], strict=True):
            packer.add(block_of(lines[start:end]))
    return parts


COMPRESSIONS: list[Compression] = list(get_args(Compression))
LINES = st.lists(st.binary(max_size=9).map(lambda line: line.replace(b"\n", b"")), max_size=20)
CUTS = st.lists(st.integers(0, 20), max_size=4)
SIZES = st.builds(PartSize, st.none() | st.integers(1, 4), st.none() | st.integers(1, 12))


@settings(deadline=None)
@given(LINES, SIZES, CUTS, st.booleans())
def test_parts_are_cut_before_the_line_that_would_make_them_larger(
    lines: list[bytes], size: PartSize, cuts: list[int], at_once: bool
):
    parts = parts_of(lines, size, cuts=cuts, at_once=at_once)
    texts = [unpacked(part.data) for part in parts]
    assert b"".join(texts) == b"".join(line + b"\n" for line in lines)
    assert [len(text) for text in texts] == list(map(len, map(b"".join, obvious_parts(lines, size))))
    for at, (part, text) in enumerate(zip(parts, texts, strict=True)):
        assert text.endswith(b"\n")
        assert (text.count(b"\n"), len(text)) == (part.rows, part.unpacked_bytes)
        assert part.rows <= (size.events or part.rows)
        assert part.unpacked_bytes <= (size.unpacked_bytes or part.unpacked_bytes) or part.rows == 1
        if at + 1 < len(texts):
            following = texts[at + 1].index(b"\n") + 1
            over = size.unpacked_bytes is not None and part.unpacked_bytes + following > size.unpacked_bytes
            assert part.rows == size.events or over


def obvious_parts(lines: list[bytes], size: PartSize) -> list[list[bytes]]:
    parts: list[list[bytes]] = []
    for line in lines:
        larger = [*parts[-1], line + b"\n"] if parts else []
        too_many = size.events is not None and len(larger) > size.events
        too_large = size.unpacked_bytes is not None and len(b"".join(larger)) > size.unpacked_bytes
        if not parts or too_many or too_large:
            parts.append([line + b"\n"])
        else:
            parts[-1] = larger
    return parts


@settings(deadline=None)
@given(LINES, SIZES, CUTS, st.sampled_from(COMPRESSIONS), st.booleans(), st.integers(1, 30))
def test_same_lines_give_the_same_bytes_however_they_come(
    lines: list[bytes], size: PartSize, cuts: list[int], how: Compression, at_once: bool, piece_bytes: int
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "_PIECE_BYTES", piece_bytes)
        one = parts_of(lines, size, compression=how)
        other = parts_of(lines, size, cuts=cuts, compression=how, at_once=at_once)
        assert [part.data for part in one] == [part.data for part in other]
        assert [(part.rows, part.sha256, part.bytes) for part in one] == [
            (part.rows, hashlib.sha256(part.data).hexdigest(), len(part.data)) for part in other
        ]


@settings(deadline=None)
@given(LINES, st.randoms(), SIZES, CUTS)
def test_only_lines_that_are_kept_are_packed(lines: list[bytes], random: Any, size: PartSize, cuts: list[int]):
    keep = [random.random() < 0.6 for _ in lines]
    parts: list[Part] = []
    at = [0, *sorted(cuts), len(lines)]
    with PartsPacker(size, parts.append) as packer:
        for start, end in zip(at[:-1], at[1:], strict=True):
            packer.add(block_of(lines[start:end]), np.array(keep[start:end], np.bool_))
    expected = parts_of([line for line, kept in zip(lines, keep, strict=True) if kept], size)
    assert [part.data for part in parts] == [part.data for part in expected]


@settings(deadline=None)
@given(LINES, st.integers(1, 30))
def test_lines_one_by_one_give_the_same_bytes_as_in_blocks(lines: list[bytes], piece_bytes: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "_PIECE_BYTES", piece_bytes)
        packer = LinePacker()
        for number, line in enumerate(lines):
            assert packer.rows == number
            packer.add(line)
        whole = packer.finish()
        assert (whole.rows, whole.data) == (len(lines), pack_whole(lines).data)
        assert [part.data for part in parts_of(lines, PartSize(), compression="fast")] == [whole.data][: len(lines)]


def large_lines() -> list[bytes]:
    """5 MB that hardly pack."""
    return [hashlib.shake_256(number.to_bytes(4, "little")).hexdigest(2500).encode() for number in range(1000)]


@pytest.mark.parametrize("how", COMPRESSIONS)
def test_large_parts_are_the_same_bytes_with_and_without_a_thread(how: Compression):
    lines = large_lines()
    for size in (PartSize(), PartSize(events=300), PartSize(unpacked_bytes=1 << 20)):
        one = parts_of(lines, size, compression=how)
        other = parts_of(lines, size, cuts=[1, 2, 500, 999], compression=how, at_once=False)
        assert [part.sha256 for part in one] == [part.sha256 for part in other]
        assert b"".join(unpacked(part.data) for part in other) == b"".join(line + b"\n" for line in lines)


def test_what_takes_longer_is_smaller_and_has_no_time_or_name_either():
    lines = LONG_TEXT.splitlines()
    (fast,), (balanced,), (small,) = (parts_of(lines, PartSize(), compression=how) for how in COMPRESSIONS)
    assert fast.bytes > balanced.bytes > small.bytes
    for part in (fast, balanced, small):
        assert (part.data[:4], part.data[4:8]) == (b"\x1f\x8b\x08\0", bytes(4))
        assert zlib.decompress(part.data, 31) == LONG_TEXT


@pytest.mark.parametrize("bound", [0, 10, codec._IN_MEMORY_BYTES])
def test_part_on_disk_is_read_as_one_in_memory(monkeypatch: pytest.MonkeyPatch, bound: int):
    lines = LONG_TEXT.splitlines()
    expected = pack_whole(lines).data
    # A spooled file takes 0 for no bound.
    monkeypatch.setattr(codec, "_IN_MEMORY_BYTES", bound or 1)
    part = pack_whole(lines)
    monkeypatch.setattr(codec, "_PIECE_BYTES", 1000)
    for _ in range(2):
        assert b"".join(part.chunks()) == part.data == expected
        assert max(map(len, part.chunks())) <= 1000
    # Given up half way, and begun again.
    next(part.chunks())
    assert b"".join(part.chunks()) == expected
    file = part._file
    del part
    assert file.closed


@pytest.mark.parametrize("at_once", [False, True])
def test_parts_larger_than_the_bound_in_memory_go_to_disk(at_once: bool):
    lines = large_lines()
    expected = [part.data for part in parts_of(lines, PartSize(events=800))]
    parts = parts_of(lines, PartSize(events=800), at_once=at_once, in_memory=1 << 20)
    assert [getattr(part._file, "_rolled", None) for part in parts] == [True, False]
    assert [part.data for part in parts] == expected
    assert [hashlib.sha256(part.data).hexdigest() for part in parts] == [part.sha256 for part in parts]


@pytest.mark.parametrize("at_once", [False, True])
def test_block_that_fails_hands_on_no_last_part(at_once: bool):
    parts: list[Part] = []

    def pack() -> None:
        with PartsPacker(PartSize(events=2), parts.append, at_once=at_once) as packer:
            packer.add(block_of([b"1", b"2", b"3"]))
            raise LookupError

    with pytest.raises(LookupError):
        pack()
    assert [part.rows for part in parts] in ([], [2])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("behind")]


@pytest.mark.parametrize("at_once", [False, True])
def test_what_is_raised_where_parts_go_comes_through(at_once: bool):
    def done(part: Part) -> None:
        raise OSError("disk full")

    def pack() -> None:
        with PartsPacker(PartSize(events=1), done, at_once=at_once) as packer:
            for _ in range(10):
                packer.add(block_of([b"1"]))

    with pytest.raises(OSError, match="disk full"):
        pack()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("behind")]


@pytest.mark.parametrize("at_once", [False, True])
def test_part_that_could_not_be_written_is_not_handed_on(monkeypatch: pytest.MonkeyPatch, at_once: bool):
    parts: list[Part] = []
    go = threading.Event()

    def write(stream: object, data: bytes) -> None:
        assert at_once or go.wait(10)
        raise OSError("disk full")

    def pack() -> None:
        with PartsPacker(PartSize(events=1), parts.append, at_once=at_once) as packer:
            packer.add(block_of([b"1", b"2"]))
            go.set()
            time.sleep(0.1)

    monkeypatch.setattr(codec, "Behind", lambda *, at_once: Behind(5, at_once=at_once))
    monkeypatch.setattr(codec._Stream, "write", write)
    with pytest.raises(OSError, match="disk full"):
        pack()
    assert [(part.rows, unpacked(part.data)) for part in parts] == []


def test_others_read_a_part(tmp_path: Path):
    lines = LONG_TEXT.splitlines()
    for how in COMPRESSIONS:
        (part,) = parts_of(lines, PartSize(), compression=how)
        assert gzip.GzipFile(fileobj=io.BytesIO(part.data)).read() == LONG_TEXT
        path = tmp_path / "part.json.gz"
        path.write_bytes(part.data)
        subprocess.run(["gzip", "--test", path], check=True)
        assert subprocess.run(["zcat", path], check=True, capture_output=True).stdout == LONG_TEXT
