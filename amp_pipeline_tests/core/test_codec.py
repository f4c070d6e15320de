import gzip
import io
import subprocess
import zlib
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from amp_pipeline.core import codec
from amp_pipeline.core.codec import BLOCK_BYTES, PartSize, pack, pack_one, unpack
from amp_pipeline.core.errors import DamagedObjectError

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
    assert one == other
    assert one is not None
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
    assert list(pack([], PartSize(events=1))) == []


@settings(deadline=None)
@given(
    st.lists(st.binary(max_size=9).map(lambda line: line.replace(b"\n", b""))),
    st.none() | st.integers(1, 4),
    st.none() | st.integers(1, 12),
)
def test_parts_are_cut_before_the_line_that_would_make_them_larger(
    lines: list[bytes], events: int | None, size: int | None
):
    parts = list(pack(lines, PartSize(events, size)))
    texts = [unpacked(part.data) for part in parts]
    assert b"".join(texts) == b"".join(line + b"\n" for line in lines)
    for at, (part, text) in enumerate(zip(parts, texts, strict=True)):
        assert text.endswith(b"\n")
        assert (text.count(b"\n"), len(text)) == (part.rows, part.unpacked_bytes)
        assert part.rows <= (events or part.rows)
        assert part.unpacked_bytes <= (size or part.unpacked_bytes) or part.rows == 1
        if at + 1 < len(texts):
            following = texts[at + 1].index(b"\n") + 1
            full = part.rows == events or (size is not None and part.unpacked_bytes + following > size)
            assert full


def test_batches_of_lines_do_not_show(monkeypatch: pytest.MonkeyPatch):
    text = b"".join(line + b"\n" for line in TEXT.splitlines())
    monkeypatch.setattr(codec._Packer, "_BATCH_BYTES", 10)
    part = pack_one(TEXT.splitlines())
    assert part is not None
    assert unpacked(part.data) == text


def test_others_read_a_part(tmp_path: Path):
    lines = LONG_TEXT.splitlines()
    (part,) = pack(lines, PartSize())
    assert gzip.GzipFile(fileobj=io.BytesIO(part.data)).read() == LONG_TEXT
    path = tmp_path / "part.json.gz"
    path.write_bytes(part.data)
    subprocess.run(["gzip", "--test", path], check=True)
    assert subprocess.run(["zcat", path], check=True, capture_output=True).stdout == LONG_TEXT
