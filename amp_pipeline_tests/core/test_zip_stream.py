import io
import random
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_pipeline.core.zip_stream import BLOCK_BYTES, LARGE, Member, WrongLengthError, length, pieces

EDGES = [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES, 300_000]
READER = """
import java.io.*; import java.util.zip.*;
public class Reader { public static void main(String[] names) throws IOException {
  ZipInputStream zip = new ZipInputStream(new FileInputStream(names[0]));
  byte[] buffer = new byte[65536]; ZipEntry entry;
  while ((entry = zip.getNextEntry()) != null) {
    CRC32 crc = new CRC32(); int count; while ((count = zip.read(buffer)) > 0) crc.update(buffer, 0, count);
    System.out.println(entry.getName() + " " + crc.getValue()); } } }
"""


def cut(data: bytes, at: list[int]) -> Iterator[bytes]:
    """``data`` in pieces."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return (data[start:end] for start, end in zip(edges, edges[1:], strict=False))


def zipped(contents: list[bytes], large: int = LARGE, at: list[int] | None = None) -> bytes:
    members = [Member(f"7/7_2024-05-06_0#{number}.json.gz", len(data)) for number, data in enumerate(contents)]
    given_bytes = ((member, cut(data, at or [])) for member, data in zip(members, contents, strict=True))
    made = b"".join(pieces("7", given_bytes, large))
    assert len(made) == length("7", members, large)
    return made


@given(
    st.lists(st.tuples(st.sampled_from(EDGES), st.integers(0, 99)), max_size=4),
    st.lists(st.integers(0, 400_000), max_size=6),
    st.sampled_from([LARGE, 100_000, 1]),
)
def test_any_members_in_any_pieces_are_read_back(sizes: list[tuple[int, int]], at: list[int], large: int):
    contents = [random.Random(seed).randbytes(size) for size, seed in sizes]
    with zipfile.ZipFile(io.BytesIO(zipped(contents, large, at))) as found:
        assert found.testzip() is None
        assert found.namelist()[0] == "7/"
        assert [found.read(name) for name in found.namelist()[1:]] == contents


def test_same_members_make_same_bytes():
    assert zipped([b"a" * 70_000], at=[3, 9]) == zipped([b"a" * 70_000], at=[66_000])


def test_sizes_are_written_as_zip64_only_where_they_have_to_be():
    assert b"PK\x06\x06" not in zipped([b"abc"])
    large = zipped([b"abc"], large=1)
    assert b"PK\x06\x06" in large
    assert b"PK\x06\x07" in large
    with zipfile.ZipFile(io.BytesIO(large)) as found:
        assert found.infolist()[1].extract_version == 45


@pytest.mark.soak
def test_more_members_than_two_bytes_can_count():
    members = [Member(f"7/{number}", 1) for number in range(66_000)]
    made = b"".join(pieces("7", ((member, [b"x"]) for member in members)))
    assert len(made) == length("7", members)
    with zipfile.ZipFile(io.BytesIO(made)) as found:
        assert len(found.namelist()) == 66_001
        assert found.read("7/65999") == b"x"


@pytest.mark.parametrize("content", [b"", b"ab", b"abcd"])
def test_member_of_another_length_is_refused(content: bytes):
    with pytest.raises(WrongLengthError, match="7/a has"):
        list(pieces("7", [(Member("7/a", 3), [content])]))


def test_first_piece_needs_the_first_member():
    def broken() -> Iterator[bytes]:
        raise KeyError("no such object")
        yield b""

    with pytest.raises(KeyError):
        next(pieces("7", [(Member("7/a", 3), broken())]))


@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java 11 or newer")
def test_java_reads_it_from_the_front(tmp_path: Path):
    """ZipInputStream refuses stored members whose CRC comes behind them."""
    contents = [bytes(size % 251 for _ in range(size)) for size in EDGES]
    (tmp_path / "Reader.java").write_text(READER)
    (tmp_path / "a.zip").write_bytes(zipped(contents))
    command = ["java", "-Xshare:auto", "Reader.java", "a.zip"]
    printed = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.splitlines()
    with zipfile.ZipFile(tmp_path / "a.zip") as found:
        assert printed == [f"{info.filename} {info.CRC}" for info in found.infolist()]
