"""What is true of folders alone; what is true of all stores is in test_contract."""

import os
from pathlib import Path

from amp_pipeline.storage.folder import FolderStore


def test_names_of_a_large_folder_are_read_again_once_it_has_changed(tmp_path: Path):
    store = FolderStore(tmp_path, durable=False)
    for number in range(1100):
        (tmp_path / f"{number:04d}").touch()
    # As if it had not changed for a while; only then its names are kept.
    os.utime(tmp_path, (1_700_000_000, 1_700_000_000))
    assert [info.name for info in store.find("003")] == [f"{number:04d}" for number in range(30, 40)]
    (tmp_path / "0035b").write_bytes(b"new")
    (tmp_path / "0036").unlink()
    (tmp_path / "0037").write_bytes(b"more")
    found = {info.name: info.size for info in store.find("003")}
    assert "0036" not in found
    assert (found["0035b"], found["0037"]) == (3, 4)
