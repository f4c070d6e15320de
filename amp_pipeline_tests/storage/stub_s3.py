"""A server that answers as S3 does where no server that can be had here does: it has as much of S3 as a probe asks for.

Tests say what it refuses, and with which words of AWS; it checks no signatures.
"""

import http.server
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast
from urllib.parse import parse_qs, unquote, urlsplit

from typing_extensions import override

from amp_pipeline_tests.listening import Handler, listening


@dataclass(frozen=True)
class Request:
    """What is asked of it."""

    method: str
    key: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    """By lower-case name."""
    there: bool
    """Whether there is an object of that key."""

    @property
    def operation(self) -> str:
        if not self.key:
            return "ListMultipartUploads" if "uploads" in self.query else f"{self.method} bucket"
        if "uploadId" in self.query:
            return {"POST": "Complete", "PUT": "UploadPart", "DELETE": "Abort"}[self.method]
        return "Create" if "uploads" in self.query else self.method


Refused = tuple[int, str, str] | None
"""Status, code and message; None: done as asked."""


class StubS3(http.server.ThreadingHTTPServer):
    """Listens on a free port of 127.0.0.1."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, bytes] = {}
        self.refuses: Callable[[Request], Refused] = lambda _: None
        self.knows_conditions = True
        self.gives: Callable[[bytes], bytes] = bytes
        self.answers_all_with: bytes | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def stub_s3() -> Iterator[StubS3]:
    stub = StubS3()
    with listening(stub):
        yield stub


def denied(message: str = "Access Denied") -> Refused:
    return (403, "AccessDenied", message)


class _Handler(Handler):
    @override
    def answer_any(self) -> None:
        stub = cast(StubS3, self.server)
        body = self.body()
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            body = body.split(b"\r\n")[1]
        url = urlsplit(self.path)
        key = unquote(url.path).lstrip("/").partition("/")[2]
        query = parse_qs(url.query, keep_blank_values=True)
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, key, query, headers, key in stub.objects)
        if stub.answers_all_with is not None:
            self._answer(200, stub.answers_all_with)
            return
        refused = stub.refuses(request) or (self._condition_failed(stub, request) if stub.knows_conditions else None)
        if refused is not None:
            status, code, message = refused
            self._answer(status, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode())
            return
        status, data = self._done(stub, request, body)
        self._answer(status, data, _etag(body) if request.operation == "PUT" else _etag(data))

    @staticmethod
    def _condition_failed(stub: StubS3, request: Request) -> Refused:
        if request.method != "PUT":
            return None
        absent, same = request.headers.get("if-none-match"), request.headers.get("if-match")
        if (absent and request.there) or (same and same != _etag(stub.objects.get(request.key, b""))):
            return (412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
        return None

    @staticmethod
    def _done(stub: StubS3, request: Request, body: bytes) -> tuple[int, bytes]:
        match request.operation:
            case "HEAD bucket" | "UploadPart":
                return 200, b""
            case "GET bucket":
                return 200, b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>"
            case "ListMultipartUploads":
                return 200, b"<ListMultipartUploadsResult></ListMultipartUploadsResult>"
            case "Create":
                stub.uploads[request.key] = b""
                text = "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
                return 200, text.encode()
            case "Complete":
                stub.objects[request.key] = stub.uploads.pop(request.key)
                return 200, b"<CompleteMultipartUploadResult><ETag>1-1</ETag></CompleteMultipartUploadResult>"
            case "Abort":
                stub.uploads.pop(request.key, None)
                return 204, b""
            case "PUT":
                stub.objects[request.key] = body
                return 200, b""
            case "DELETE":
                stub.objects.pop(request.key, None)
                return 204, b""
            case _:
                return (200, stub.gives(stub.objects[request.key])) if request.there else (404, b"")

    def _answer(self, status: int, data: bytes, etag: str = "") -> None:
        self.send_response_only(status)
        self.send_header("ETag", etag)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(0 if status == 204 else len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _etag(data: bytes) -> str:
    return f'"{len(data):032x}"'
