from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from amp_pipeline.buckets import S3
from amp_pipeline.config import NOT_SAID, Organization
from amp_pipeline.config_files import organization
from amp_pipeline.core.errors import ConfigError, StoreError
from amp_pipeline.histories import settled
from amp_pipeline.storage.memory import MemoryStore
from amp_pipeline.storage.objects import ObjectStore


def house(source: dict[str, Any], **project: Any) -> Organization:
    given = {"id": 7, "slug": "shop", "source": source, **project}
    told = {"id": 9, "slug": "house", "workspace": "/nowhere/workspace", "projects": [given]}
    return organization(told, Path("/nowhere/defs.yaml"))


def pulled(**settings: Any) -> dict[str, Any]:
    return {"type": "amplitude_export", "api_key": "key", "secret_key": "secret", **settings}


@pytest.mark.parametrize(
    ("history", "today", "first"),
    [
        (None, "2026-11-22", "2026-08-22-00:00"),
        ("3 months", "2026-05-31", "2026-02-28-00:00"),
        ("1 month", "2026-01-15", "2025-12-15-00:00"),
        ("12 months", "2024-02-29", "2023-02-28-00:00"),
        ("30 days", "2026-03-01", "2026-01-30-00:00"),
        ("all", "2026-11-22", "2012-01-01-00:00"),
        ("999 months", "2026-11-22", "2012-01-01-00:00"),
    ],
)
def test_a_history_is_counted_back_from_the_first_look(history: str | None, today: str, first: str):
    store = MemoryStore()
    one = house(pulled(**({"history": history} if history else {})))
    (found,) = settled([one], datetime.fromisoformat(f"{today}T12:00:00+00:00"), lambda *_: store)
    assert found.projects[0].first_hour.key == first


def test_it_is_remembered():
    store = MemoryStore()
    one = house(pulled())
    assert one.projects[0].first_hour == NOT_SAID
    (before,) = settled([one], datetime(2026, 11, 22, tzinfo=UTC), lambda *_: store)
    (after,) = settled([one], datetime(2027, 11, 22, tzinfo=UTC), lambda *_: store)
    assert before == after
    assert store.get("9/7/first_hour") == b"2026-08-22-00:00"
    store.put("9/7/first_hour", b"some time")
    with pytest.raises(ConfigError, match="9/7/first_hour holds no hour"):
        settled([one], datetime(2027, 11, 22, tzinfo=UTC), lambda *_: store)


def test_nothing_is_opened_where_the_first_hour_is_written():
    def fails(url: str, s3: S3 | None) -> ObjectStore:
        raise AssertionError(url)

    one = house(pulled(), first_hour="2026-01-01-00:00")
    assert settled([one], datetime(2026, 11, 22, tzinfo=UTC), fails) == [one]


def test_a_workspace_that_is_away_is_said_with_the_way_out():
    def away(url: str, s3: S3 | None) -> ObjectStore:
        class Away(MemoryStore):
            def head(self, name: str) -> Any:
                raise StoreError("the disk is gone")

        return Away()

    with pytest.raises(ConfigError, match="the disk is gone; or write first_hour"):
        settled([house(pulled())], datetime(2026, 11, 22, tzinfo=UTC), away)


@pytest.mark.parametrize(
    ("source", "project", "said"),
    [
        ({"url": "landing"}, {}, "projects[0].first_hour: is missing; add it"),
        (pulled(history="2 weeks"), {}, "projects[0].source.history: write 3 months, 30 days or all"),
        (pulled(history="all"), {"first_hour": "2026-01-01-00:00"}, "both say where to begin"),
        (pulled(every="5m"), {}, "projects[0].source.every: write 30m to 24h"),
        (pulled(every="2d"), {}, "projects[0].source.every: write 30m to 24h"),
        (pulled(region="eu"), {}, "projects[0].source.region: "),
        (pulled(region="EU", url="https://example.com"), {}, "region and url both say where to pull from"),
        (pulled(url="https://key:secret@example.com"), {}, "projects[0].source.url: write the address of a server"),
        (pulled(url="https://example.com/api/2/export/"), {}, "projects[0].source.url: write the address up to"),
        (pulled(api_key="abc\n"), {}, "projects[0].source.api_key: it begins or ends with white space"),
        (pulled(secret_key=" abc"), {}, "projects[0].source.secret_key: it begins or ends with white space"),
        (pulled(api_key="abc:def"), {}, "projects[0].source.api_key: it has a colon"),
        (pulled(key="x"), {}, "projects[0].source.key: there is no such field; known here are api_key, secret_key"),
        ({"type": "amplitude_export"}, {}, "projects[0].source.api_key: is missing; add it"),
        ({"type": "mixpanel"}, {"first_hour": "2026-01-01-00:00"}, "projects[0].source: type: write landing or"),
        (
            {"url": "landing"},
            {"first_hour": "2026-01-01-00:00", "dashboard": {}},
            "dashboard is taken with the keys of a source of type amplitude_export",
        ),
    ],
)
def test_what_is_wrong_is_named(source: dict[str, Any], project: dict[str, Any], said: str):
    with pytest.raises(ConfigError) as error:
        house(source, **project)
    assert said in str(error.value)
    assert "secret" not in str(error.value).replace("secret_key", "")
    assert "abc" not in str(error.value)


def test_keys_are_never_shown():
    one = house(pulled(api_key="abc123", secret_key="def456"))
    assert "abc123" not in repr(one) + str(one.model_dump(mode="json"))
    assert "def456" not in repr(one) + str(one.model_dump(mode="json"))
