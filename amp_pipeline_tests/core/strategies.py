"""Lines of all kinds, for what reads blocks of them."""

import json

from hypothesis import strategies as st

from amp_pipeline.core.envelope import MOST_LEVELS
from amp_pipeline.core.lines import BYTE_ORDER_MARK

TIMES = ("2024-05-06 10:00:00.123456", "2024-05-06T10:59:59Z", "2024-05-06 11:00:00", "2024-05-06 10:00", "")
_TEXTS = st.sampled_from(['""', '"a"', '"\\u0061"', '"\\u00e9"', '"\u00e9"', '"\\ud83d\\ude00"', '"\u2028"', "null"])
_TIMES = st.sampled_from([json.dumps(time) for time in TIMES]) | st.just("null")
_INTEGERS = st.sampled_from(["0", "7", "-0", "9007199254740993", "18446744073709551615", "null"])
_DATA = st.sampled_from(["null", "{}", '{"merged_amplitude_id":5}', '{ "x" :[{}],"merged_amplitude_id":6}'])
_GOOD = {
    **dict.fromkeys(("device_id", "$insert_id", "uuid", "event_type"), _TEXTS),
    **dict.fromkeys(("server_upload_time", "client_event_time", "event_time"), _TIMES),
    **dict.fromkeys(("app", "amplitude_id"), _INTEGERS),
    "event_id": _INTEGERS | st.just("1.5"),
    "data": _DATA,
}
_ODD = st.sampled_from(
    [
        *('"\\ud800"', "5.0", "1e3", "1e400", "-0.0", "5.5", "true", "18446744073709551616", "9" * 30, "9" * 5000),
        *("-9223372036854775809", '{"merged_amplitude_id":"5"}', '{"merged_amplitude_id":5.0}', "[]", "[[{}]]", '"5"'),
        *('{"merged_amplitude_id":"5","merged_amplitude_id":5}', '{"merged_amplitude_id":' + "9" * 30 + "}", '"}\\n{"'),
        *("NaN", "01", "nul", '"\t"', '"\\x"', "[1,]", "", "{", '"', "1 2", '"' + "[{" * 150 + '"', "[" * 250),
    ]
)
_OTHER_KEYS = ("city", "City", "event_properties", "uuid", "processed_time", "x", "", "\u00e9", "\U0001f600", "value_3")


def _others(key: str) -> st.SearchStrategy[str]:
    return _GOOD.get(key, st.sampled_from(["null", "1", '"a"', '{ "b":[1 , 2]}', '"\\\\\\""', "-1.5e3", "[[],{}]"]))


KEYS = st.sampled_from([*_GOOD, *_OTHER_KEYS, '"', "\\", "\n"]) | st.text(st.characters())


def _written(key: str, how: str) -> str:
    if how == "escaped":
        return '"' + "".join(f"\\u{ord(c):04x}" for c in key) + '"' if key.isascii() else json.dumps(key)
    return json.dumps(key, ensure_ascii=False)


@st.composite
def _lines(draw: st.DrawFn, keys: list[str], *, odd: bool) -> bytes:
    """A line with those keys, more or less."""
    keys = [*keys]
    if odd:
        keys = draw(st.permutations([*keys, *draw(st.lists(KEYS | st.sampled_from(keys or ["x"]), max_size=2))]))
        keys = keys[draw(st.integers(0, 1)) :]
    members: list[str] = []
    for key in keys:
        value = draw(_others(key) if not odd or draw(st.integers(0, 3)) else _ODD)
        written = _written(key, draw(st.sampled_from(["plain", "plain", "escaped"])) if odd else "plain")
        colon = draw(st.sampled_from([":", ":", " : ", "\r:\t"])) if odd else ":"
        members.append(f"{written}{colon}{value}")
    before, after = draw(st.sampled_from([("", "")] * 4 + [(" ", ""), ("", "\r"), ("", "x")])) if odd else ("", "")
    text = before + "{" + draw(st.sampled_from([",", " , ", ","])).join(members) + "}" + after
    return text.encode("utf-8", "surrogatepass")


def _deep(levels: int) -> bytes:
    return b'{"x":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


_FIXED = [
    [b""],
    [b" \t\r"],
    [b"{}"],
    [b"{"],
    [b"}"],
    [b"null"],
    [b"[]"],
    [b'{"x":NaN}'],
    [b"{}{}"],
    [b'{"x":1}{"y":2}'],
    [b'{"x":"\xff"}'],
    [b'{"x":"\xed\xa0\x80"}'],
    [b'{"\xff":1}'],
    [b'{"x":"\0"}'],
    [BYTE_ORDER_MARK + b"{}"],
    [_deep(MOST_LEVELS)],
    [_deep(MOST_LEVELS + 1)],
    [_deep(100_000)],
    [b'{"x":[' + b"[]," * 300 + b"1]}"],
    [b'{"x":"' + b"[" * 300 + b'"}'],
    [b"{" + b",".join(b'"k%d":%d' % (n, n) for n in range(300)) + b"}"],
    # Two lines that are one object, or that hold as many objects as lines.
    [b'{"x":', b"1}"],
    [b'{"x":{}', b'{"y":1}}'],
    [b'{"x":{}', b"}"],
    [b'{"x":"}', b'{"}'],
    [b'{"x":[{}', b"{}]}"],
    [b'{"x":1},{}', b"{}"],
    [b"{}{}", b""],
    [b"{}{}", b'{"x":}'],
    [b'{"x":"}{"}', b'{"x":1}{}'],
    [b'{"x"}', b'{:1}{"y":1}'],
]


@st.composite
def blocks(draw: st.DrawFn, most: int = 4) -> list[list[bytes]]:
    """Lines of one source, block by block: most of them of few shapes, and some of any kind."""
    shapes = draw(st.lists(st.lists(KEYS, max_size=6, unique=True), min_size=1, max_size=3))
    good = st.sampled_from(shapes).flatmap(lambda keys: _lines(keys, odd=False))
    odd = st.sampled_from(shapes).flatmap(lambda keys: _lines(keys, odd=True))
    few = good.map(lambda line: [line])
    any_kind = few | odd.map(lambda line: [line]) | st.sampled_from(_FIXED)
    block = st.lists(few, min_size=1, max_size=5) | st.lists(any_kind, min_size=1, max_size=5)
    several = draw(st.lists(block, min_size=1, max_size=most))
    return [[line for group in block for line in group] for block in several]


ODD_LINES = [line for group in _FIXED for line in group]
