import random

import duckdb
import pytest

from amp_pipeline.core.seen import Seen
from amp_pipeline.core.user_keys import UserKeys, user_key
from amp_pipeline_tests.laws.tables_truth import USER_KEY


def test_keys_are_new_once_however_they_come():
    chosen = random.Random(1)
    keys = [str(chosen.randrange(3000)) for _ in range(9000)]
    expected = [key not in keys[:at] for at, key in enumerate(keys)]
    seen, found, at = Seen(), list[bool](), 0
    while at < len(keys):
        size = chosen.choice([0, 1, 7, 500])
        found += seen.first(keys[at : at + size]).tolist()
        at += size
    assert found == expected


IDS = [
    ("u", 5, "d"),
    ("", None, None),
    (None, None, ""),
    (None, None, None),
    ("1:u", 5, None),
    ("ß🛒", -1, "e\u0301"),
    ("u,5", None, "d"),
    ("u", None, "5,1:d"),
]


@pytest.mark.parametrize("ids", IDS)
def test_the_key_of_a_user_is_what_the_docs_say_in_sql(ids: tuple[str | None, int | None, str | None]):
    query = f"SELECT {USER_KEY} FROM (SELECT ?::VARCHAR AS user_id, ?::BIGINT AS amplitude_id, ?::VARCHAR AS device_id)"
    assert duckdb.execute(query, list(ids)).fetchall() == [(user_key(*ids),)]


def test_users_have_keys_of_their_own():
    assert len(set(UserKeys().many([*IDS, *IDS]))) == len(IDS)
