import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from amp_pipeline.core.errors import StoreError
from amp_pipeline.storage.scratch import explained, scratch

OLD = time.time() - 2 * 3600


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_folder_is_there_while_it_is_needed(temporary: Path):
    with scratch() as folder:
        (folder / "a").write_text("a")
        assert temporary in folder.parents
    assert not folder.exists()


def test_folders_in_use_and_those_of_others_stay(temporary: Path):
    other = temporary / "amp_pipeline-workspace"
    other.mkdir()
    (other / "a").write_text("the only copy")
    os.utime(other, (OLD, OLD))
    with scratch() as folder:
        strange = folder.parent / "strange"
        strange.mkdir()
        for one in (folder, strange):
            os.utime(one, (OLD, OLD))
        with scratch():
            assert folder.exists()
        assert strange.exists()
    assert (other / "a").read_text() == "the only copy"


def test_folder_of_a_killed_run_goes_away_with_time(temporary: Path):
    program = (
        "from amp_pipeline.storage.scratch import scratch\nimport time\n"
        "with scratch() as folder: print(folder, flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment, text=True) as run:
        assert run.stdout is not None
        left = Path(run.stdout.readline().strip())
        run.send_signal(signal.SIGKILL)
    with scratch():
        assert left.exists()
    os.utime(left, (OLD, OLD))
    with scratch():
        assert not left.exists()


def test_folder_that_is_not_there_is_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(StoreError, match="TMPDIR"), scratch():
        pass


def fill() -> None:
    with explained(), Path("/dev/full").open("w") as full:
        full.write("x")


def test_full_disk_is_told_of():
    with pytest.raises(StoreError, match="No space left on device"):
        fill()
