"""What is tried again, what an answer means, and that keys go nowhere else: over HTTP."""

import time
import traceback
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any
from urllib.parse import quote

import pytest

from amp_pipeline.core.errors import AmpError
from amp_pipeline.source_settings import AmplitudeExport
from amp_pipeline.sources.amplitude_http import BrokenAnswerError, Http, SourceError
from amp_pipeline_tests.dashboard_server import API_KEY, BASIC, SECRET_KEY, Dashboard, Fault, dashboard
from amp_pipeline_tests.servers import free_port

LIST = "/api/2/events/list"
NOW = 1_800_000_000.0


@pytest.fixture
def server() -> Iterator[Dashboard]:
    with dashboard() as one:
        yield one


class Waits(list[float]):
    """Notes how long was waited, and waits not at all."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def http(server: Dashboard, waits: Waits | None = None, **settings: Any) -> Http:
    return Http(server.source(**settings), sleep=Waits() if waits is None else waits, now=lambda: NOW)


def test_answer_is_returned_before_its_body_is_read(server: Dashboard) -> None:
    server.events = [{"value": "x" * 100_000}]
    with http(server).get(LIST, {"a b": "c&d"}) as answer:
        assert answer.status_code == 200
        assert answer.raw.tell() < 100_000
        assert answer.json()["data"] == server.events
    assert server.asked == [(f"{LIST}?a+b=c%26d", BASIC)]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
def test_server_in_trouble_is_asked_again_after_longer_and_longer(server: Dashboard, status: int) -> None:
    server.faults.extend([Fault(LIST, status)] * 8)
    waits = Waits()
    with http(server, waits, attempts=9).get(LIST) as answer:
        assert answer.status_code == 200
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize(("status", "kind"), [(429, "throttled"), (500, "server"), (504, "server"), (408, "server")])
def test_server_that_stays_in_trouble_is_given_up(server: Dashboard, status: int, kind: str) -> None:
    server.faults.extend([Fault(LIST, status, b"come\tback <b>later</b>")] * 3)
    with pytest.raises(SourceError, match=f"{LIST} answers {status}: come back later .tried 3 times.") as raised:
        http(server, attempts=3).get(LIST)
    assert (raised.value.kind, raised.value.status) == (kind, status)
    assert isinstance(raised.value, AmpError)
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("asked", "waited"),
    [
        ("7", 7),
        ("0", 0),
        (formatdate(NOW + 90, usegmt=True), 90),
        (formatdate(NOW - 90, usegmt=True), 0),
        ("soon", 1),
        ("-5", 1),
    ],
)
def test_retry_after_is_honoured(server: Dashboard, asked: str, waited: float) -> None:
    server.faults.append(Fault(LIST, 429, headers={"Retry-After": asked}))
    waits = Waits()
    http(server, waits).get(LIST).close()
    assert waits == [waited]


def test_server_that_asks_for_hours_is_given_up_at_once(server: Dashboard) -> None:
    server.faults.append(Fault(LIST, 429, headers={"Retry-After": "3600"}))
    waits = Waits()
    with pytest.raises(SourceError, match="it asks to wait 3600 s") as raised:
        http(server, waits).get(LIST)
    assert raised.value.kind == "throttled"
    assert waits == []


@pytest.mark.parametrize("status", [401, 403])
def test_wrong_keys_are_told_at_once_and_never_shown(server: Dashboard, status: int) -> None:
    said = f"no user {API_KEY}:{SECRET_KEY}, {quote(SECRET_KEY, safe='')}, {BASIC}"
    server.faults.append(Fault(LIST, status, said.encode()))
    with pytest.raises(SourceError, match="Check api_key and secret_key .* region: projects in the EU") as raised:
        http(server).get(LIST)
    assert (raised.value.kind, raised.value.status) == ("credentials", status)
    assert len(server.asked) == 1
    told = "".join(traceback.format_exception(raised.value)) + repr(raised.value)
    for secret in (API_KEY, SECRET_KEY, quote(SECRET_KEY, safe=""), BASIC.split()[1]):
        assert secret not in told


def test_keys_of_a_trial_are_not_taken_out_of_words(server: Dashboard) -> None:
    server.faults.append(Fault(LIST, 403, b"the key k or the secret wrongly is wrong"))
    with pytest.raises(SourceError, match="the key … or the secret wrongly is …") as raised:
        Http(server.source(api_key="k", secret_key="wrong"), sleep=Waits()).get(LIST)
    assert raised.value.kind == "credentials"


@pytest.mark.parametrize("status", [202, 400, 403, 404, 429, 504])
def test_statuses_that_are_to_be_seen_are_returned(server: Dashboard, status: int) -> None:
    server.faults.append(Fault(LIST, status, b"as it is"))
    with http(server).get(LIST, seen={status}) as answer:
        assert (answer.status_code, answer.content) == (status, b"as it is")
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [400, 404, 410])
def test_other_refusals_are_told_at_once(server: Dashboard, status: int) -> None:
    server.faults.append(Fault(LIST, status))
    with pytest.raises(SourceError) as raised:
        http(server).get(LIST)
    assert (raised.value.kind, raised.value.status) == ("server", status)
    assert len(server.asked) == 1


def test_answer_that_breaks_off_is_read_again(server: Dashboard) -> None:
    server.events = [{"value": "x"}]
    server.faults.extend([Fault(LIST, body=b'{"data": [', cut=True), Fault(LIST, body=b'{"data": [')])

    def read(answer: Any) -> Any:
        try:
            return answer.json()
        except ValueError:
            raise BrokenAnswerError("its JSON is not whole") from None

    assert http(server).read(LIST, read) == {"data": server.events}
    assert len(server.asked) == 3


def test_answer_that_always_breaks_off_is_trouble_of_the_network(server: Dashboard) -> None:
    server.faults.extend([Fault(LIST, body=b"{", cut=True)] * 2)
    with pytest.raises(SourceError, match="gave no whole answer: .* broke off .*tried 2 times") as raised:
        http(server, attempts=2).read(LIST, lambda answer: answer.content)
    assert (raised.value.kind, raised.value.status) == ("network", 0)


def test_nobody_there_is_trouble_of_the_network() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    waits = Waits()
    with pytest.raises(SourceError, match="Connection refused") as raised:
        Http(Dashboard(api=address).source(attempts=2), sleep=waits).get(LIST)
    assert raised.value.kind == "network"
    assert waits == [1]


def test_certificates_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/not/there.pem")
    source = AmplitudeExport.model_validate(
        {"type": "amplitude_export", "url": "https://127.0.0.1:1", "api_key": "k", "secret_key": "s"}
    )
    with pytest.raises(SourceError, match=r"can't be asked: .*/not/there\.pem"):
        Http(source, sleep=lambda _: pytest.fail("this is not mended by waiting")).get("/api")


def test_disk_of_the_reader_is_no_trouble_of_the_network(server: Dashboard) -> None:
    def read(answer: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        http(server).read(LIST, read)
    assert len(server.asked) == 1


def test_keys_are_not_sent_on_to_another_server(
    server: Dashboard, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server.members["a"] = b"file"
    server.requests["r0"] = "a"
    server.faults.append(Fault(LIST, 302, headers={"Location": f"{server.bucket}/r0.csv?X-Amz-Signature=s"}))
    assert http(server).read(LIST, lambda answer: answer.content) == b"file"
    assert server.asked_of_bucket == [("/r0.csv?X-Amz-Signature=s", None)]


def test_keys_are_sent_on_to_the_same_server(server: Dashboard) -> None:
    server.faults.append(Fault("/api/old", 301, headers={"Location": LIST}))
    http(server).get("/api/old").close()
    assert server.asked == [("/api/old", BASIC), (LIST, BASIC)]


def test_address_of_a_file_that_is_too_old_is_asked_for_again(server: Dashboard) -> None:
    server.members["a"] = b"file"
    server.requests["r0"] = "a"
    server.faults.extend(
        [
            *[Fault(LIST, 302, headers={"Location": f"{server.bucket}/r0.csv?X-Amz-Signature={n}"}) for n in "12"],
            Fault("bucket", 403, b"<Code>AccessDenied</Code> Request has expired"),
        ]
    )
    assert http(server).read(LIST, lambda answer: answer.content) == b"file"
    assert [path for path, _ in server.asked_of_bucket] == [f"/r0.csv?X-Amz-Signature={n}" for n in "12"]


def test_address_of_a_file_is_not_shown(server: Dashboard) -> None:
    link = f"{server.bucket}/r0.csv?X-Amz-Signature=marker-of-the-signature"
    server.requests["r0"] = "a"
    server.members["a"] = b""
    server.faults.extend([Fault(LIST, 302, headers={"Location": link}), Fault("bucket", 403, link.encode())])
    with pytest.raises(SourceError, match="answers 403") as raised:
        http(server, attempts=1).get(LIST)
    assert raised.value.kind == "network"
    assert "marker" not in str(raised.value)


def test_redirects_without_end_are_given_up(server: Dashboard) -> None:
    server.faults.extend([Fault("/round", 302, headers={"Location": "/round"})] * 20)
    with pytest.raises(SourceError, match="redirects again and again"):
        http(server, attempts=2).get("/round")
    assert len(server.asked) == 12


@pytest.mark.parametrize("target", ["https://amplitude.example:99999/file", "http://[::1/file", "//[/", "https://a:b/"])
def test_redirects_to_no_address_are_no_answer(server: Dashboard, target: str) -> None:
    server.faults.append(Fault("/round", 302, headers={"Location": target}))
    with pytest.raises(SourceError, match="redirects to what is no address"):
        http(server, attempts=1).get("/round")


def test_date_without_a_zone_is_of_utc(server: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        asked = formatdate(NOW + 90, usegmt=True).removesuffix(" GMT")
        server.faults.append(Fault(LIST, 429, headers={"Retry-After": asked}))
        waits = Waits()
        http(server, waits).get(LIST).close()
        assert waits == [90]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_error_that_trickles_is_told_without_its_text(server: Dashboard) -> None:
    began = time.monotonic()
    server.faults.append(Fault("/slow", 500, b"x" * 1000, trickle=0.05))
    with pytest.raises(SourceError, match="/slow answers 500"):
        http(server, attempts=1, read_timeout=0.4).get("/slow")
    assert time.monotonic() - began < 5


def test_password_of_a_proxy_is_not_shown(server: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = f"http://me:marker-of-the-proxy@127.0.0.1:{free_port()}"
    monkeypatch.setenv("http_proxy", proxy)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SourceError, match="proxy of the environment could not be used") as raised:
        http(server, attempts=1).get(LIST)
    assert "marker" not in str(raised.value)
    assert server.asked == []
