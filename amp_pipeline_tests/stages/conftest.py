from collections.abc import Iterator

import pytest

from amp_pipeline.sources import amplitude_http
from amp_pipeline_tests.export_stand_in import StandIn, stand_in


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A stand-in for Amplitude, which is asked again at once."""
    monkeypatch.setattr(amplitude_http, "_FIRST_WAIT_SECONDS", 0.01)
    with stand_in() as server:
        yield server
