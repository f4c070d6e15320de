import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from typing_extensions import override

from amp_pipeline.core.errors import DeliveryError, StoreError
from amp_pipeline.destinations import claim as module
from amp_pipeline.destinations.claim import LEASE_SECONDS, Claim
from amp_pipeline.storage.folder import FolderStore
from amp_pipeline.storage.memory import MemoryStore
from amp_pipeline.storage.objects import ObjectStore

NAME = "_amp_pipeline/7/all/2024-05-06/00.claim"


def claim(store: ObjectStore, run: str = "ours") -> Claim:
    return Claim(store, NAME, "hour 2024-05-06-00:00 of shop.all", run, "2024-05-07T00:00:00Z")


class Aged(MemoryStore):
    """Objects are as old as told."""

    seconds = 0.0

    @override
    def age(self, name: str) -> float | None:
        return self.seconds


def test_of_two_runs_one_writes_and_the_other_says_so():
    store = MemoryStore()
    with claim(store, "first"):
        with pytest.raises(DeliveryError, match=r"hour 2024-05-06-00:00 of shop.all is being written by run first"):
            claim(store, "second").__enter__()
        assert store.head(NAME) is not None
    assert store.head(NAME) is None
    with claim(store, "second"):
        pass
    assert store.find("") == []


def test_claim_is_given_back_where_the_hour_fails():
    store = MemoryStore()
    with pytest.raises(LookupError), claim(store):
        raise LookupError
    assert store.find("") == []


def test_hour_of_a_killed_process_is_taken_over_at_once(tmp_path: Path):
    program = (
        "import sys, time\nfrom pathlib import Path\n"
        "from amp_pipeline_tests.destinations.test_claim import claim\n"
        "from amp_pipeline.storage.folder import FolderStore\n"
        "claim(FolderStore(Path(sys.argv[1])), 'killed').__enter__(); print('claimed', flush=True); time.sleep(60)"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, cwd=root, text=True
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "claimed\n"
        store = FolderStore(tmp_path)
        with pytest.raises(DeliveryError, match="run killed"):
            claim(store).__enter__()
        os.kill(run.pid, signal.SIGKILL)
        # Not waited for yet: a zombie writes nothing either.
        os.waitid(os.P_PID, run.pid, os.WEXITED | os.WNOWAIT)
        with claim(store):
            pass
    assert store.head(NAME) is None


def on_another_host(store: ObjectStore) -> None:
    record = {"run": "far", "at": "now", "host": "elsewhere", "process": 1, "started": "x", "token": "t"}
    store.put(NAME, msgspec.json.encode(record))


def test_hour_of_a_run_elsewhere_is_free_once_it_was_not_renewed_for_long():
    store = Aged()
    on_another_host(store)
    store.seconds = LEASE_SECONDS - 1
    with pytest.raises(DeliveryError, match=r"run far \(on elsewhere, since now\).*free after 15 minutes"):
        claim(store).__enter__()
    store.seconds = LEASE_SECONDS + 1
    with claim(store):
        pass
    assert store.find("") == []


def test_claim_that_cannot_be_read_is_somebodys():
    store = Aged()
    store.put(NAME, b"what?")
    with pytest.raises(DeliveryError, match="that can't be read"):
        claim(store).__enter__()


def test_run_that_stood_still_writes_nothing_more_once_it_was_taken_over(monkeypatch: pytest.MonkeyPatch):
    store = Aged()
    monkeypatch.setattr(module, "_RENEW_AFTER_SECONDS", 0)
    with claim(store, "slow") as slow:
        slow.renew()
        on_another_host(store)
        with pytest.raises(DeliveryError, match="taken over by another run"):
            slow.renew()
        chunks = slow.renewed([b"a", b"b"])
        with pytest.raises(DeliveryError, match="taken over"):
            next(chunks)
    # The other's claim is not ours to give back.
    assert store.head(NAME) is not None


def test_answer_that_was_lost_is_no_other_run():
    class Lost(MemoryStore):
        @override
        def put_if(self, name: str, data: bytes, version: str | None) -> str | None:
            super().put_if(name, data, version)
            return None

    store = Lost()
    with claim(store):
        assert store.head(NAME) is not None
    assert store.find("") == []


def test_store_that_fails_at_the_end_does_not_hide_why_the_hour_failed():
    class Failing(MemoryStore):
        @override
        def delete(self, name: str) -> None:
            raise StoreError("gone")

    with pytest.raises(LookupError), claim(Failing()):
        raise LookupError


class Losing(MemoryStore):
    """Answers to conditional writes may get lost: what was done once is not as expected when tried again."""

    loses = False

    @override
    def put_if(self, name: str, data: bytes, version: str | None) -> str | None:
        written = super().put_if(name, data, version)
        return None if self.loses else written


def test_answer_to_a_renewal_that_was_lost_is_no_other_run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_RENEW_AFTER_SECONDS", 0)
    store = Losing()
    with claim(store) as ours:
        store.loses = True
        ours.renew()
        store.loses = False
        ours.renew()
    assert store.find("") == []


@pytest.mark.parametrize("elsewhere", ["another-boot pid:[4026531836] 1", "{boot} pid:[1] 1", "{boot} 1"])
def test_living_run_is_not_taken_for_gone_since_another_host_has_its_name(elsewhere: str):
    """Containers on the network of their host have its name, and processes of their own numbers."""
    store = MemoryStore()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    record = {"run": "far", "at": "now", "host": socket.gethostname(), "process": os.getpid(), "token": "t"}
    store.put(NAME, msgspec.json.encode({**record, "started": elsewhere.format(boot=boot)}))
    with pytest.raises(DeliveryError, match="run far"):
        claim(store).__enter__()


def test_machine_that_slept_asks_before_it_writes_on(monkeypatch: pytest.MonkeyPatch):
    """Its monotonic clock stood still meanwhile, and others may have taken the hour over."""
    store = Aged()
    with claim(store, "slept") as slept:
        on_another_host(store)
        slept.renew()
        awake = time.clock_gettime(time.CLOCK_BOOTTIME)
        monkeypatch.setattr(time, "clock_gettime", lambda _: awake + 2 * LEASE_SECONDS)
        with pytest.raises(DeliveryError, match="taken over"):
            slept.renew()
