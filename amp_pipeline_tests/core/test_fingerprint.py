import pytest

from amp_pipeline.core import fingerprint as module
from amp_pipeline.core.fingerprint import fingerprint


def test_order_of_keys_does_not_count_and_order_of_parts_does():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a", "b", "c"}) == fingerprint({"c", "b", "a"})
    assert fingerprint("a", "b") != fingerprint("b", "a")


def test_parts_do_not_run_into_one_another():
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert fingerprint(["a"], "b") != fingerprint("a", ["b"])


def test_raised_format_changes_every_fingerprint(monkeypatch: pytest.MonkeyPatch):
    before = fingerprint("a")
    monkeypatch.setattr(module, "FORMAT", module.FORMAT + 1)
    assert fingerprint("a") != before


def test_fingerprint_is_stable_between_versions(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "FORMAT", 1)
    assert fingerprint([1, "a"], None) == "8015356ef6127a6b137cc5b3f2b0605c43994ff26e5e268d85d51c5d30c55df5"
