"""Zips as different writers make them, and damage of every byte."""

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typing_extensions import override

from amp_pipeline.sources import answer_zip
from amp_pipeline.sources.answer_body import BrokenAnswerError

NAMES = ["7/7_2024-05-06_0#0.json.gz", "7/7_2024-05-06_0#1.json.gz"]

JAVA = bytes.fromhex(
    "504b0304 1400 0808 0800 2397 765d 00000000 00000000 00000000 0200 0000 372f0300504b0708 00000000 02000000 00000000"
)
"""How ``java.util.zip`` begins a zip with a folder: nothing, deflated, with its sizes behind it."""


class Stream(io.RawIOBase):
    """What can't be gone back in."""

    def __init__(self) -> None:
        self.data = bytearray()

    @override
    def writable(self) -> bool:
        return True

    @override
    def write(self, data: Any) -> int:
        self.data += data
        return len(data)


def made(method: int, *, zip64: bool = False, comment: bytes = b"", stream: bool = False) -> bytes:
    out = Stream() if stream else io.BytesIO()
    with zipfile.ZipFile(out, "w") as answer:
        answer.comment = comment
        if not stream:
            answer.mkdir("7")
        for number, name in enumerate(NAMES):
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            with answer.open(info, "w", force_zip64=zip64) as file:
                file.write(b"line\n" * (number + 1))
    return bytes(out.data if isinstance(out, Stream) else out.getvalue())


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("zip64", [False, True])
@pytest.mark.parametrize("comment", [b"", b"of somebody"])
@pytest.mark.parametrize("stream", [False, True])
def test_files_are_those_that_were_put_in(method: int, zip64: bool, comment: bytes, stream: bool):
    data = made(method, zip64=zip64, comment=comment, stream=stream)
    with zipfile.ZipFile(io.BytesIO(data)) as answer:
        assert [info.filename for info in answer_zip.files(answer)] == NAMES
    assert answer_zip.first_file(data) == NAMES[0]


def test_first_file_comes_after_a_folder_that_java_made():
    assert answer_zip.first_file(JAVA + made(zipfile.ZIP_STORED, stream=True)) == NAMES[0]


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"<html>" * 20, b"PK\x05\x06" + bytes(18), JAVA])
def test_first_file_may_not_be_told(data: bytes):
    assert answer_zip.first_file(data) is None


@pytest.mark.parametrize("count", [40, 70_000])
@pytest.mark.parametrize("comment", [b"", b"PK of somebody"])
def test_a_directory_that_does_not_fit_into_memory_is_not_read(
    place: Path, monkeypatch: pytest.MonkeyPatch, count: int, comment: bytes
):
    """Of more than 65,535 files it is written in another form."""
    with zipfile.ZipFile(place, "w") as answer:
        answer.comment = comment
        for number in range(count):
            answer.writestr(zipfile.ZipInfo(str(number)), b"")
        monkeypatch.setattr(answer_zip, "_MOST_DIRECTORY_BYTES", 46 * count)
    with pytest.raises(answer_zip.UnreadableZipError, match="its directory has"):
        read(place)
    monkeypatch.setattr(answer_zip, "_MOST_DIRECTORY_BYTES", 64 * count)
    assert len(read(place)) == count


def read(path: Path) -> list[bytes]:
    with answer_zip.explained(), answer_zip.opened(path) as answer:
        return [answer.read(info) for info in answer_zip.files(answer)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zips") / "answer.zip"


@given(st.sampled_from([(0, False), (8, False), (0, True)]), st.integers(0, 1 << 16), st.integers(1, 255))
@example((0, False), -1, 1)
def test_a_byte_that_is_another_hides_nothing(place: Path, kind: tuple[int, bool], at: int, change: int):
    whole = made(kind[0], zip64=kind[1])
    data = bytearray(whole)
    data[at % len(data)] ^= change
    place.write_bytes(data)
    try:
        found = read(place)
    except (BrokenAnswerError, answer_zip.UnreadableZipError):
        return
    # Times, versions and the like say nothing of what is in it.
    assert found == [b"line\n", b"line\n" * 2]
