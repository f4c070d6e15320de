"""Whoever follows a link in the documents, or a name of one in the code, finds what it promises."""

import re
from pathlib import Path

import pytest

from amp_pipeline_tests.defs.shop import REPO

DOCUMENTS = sorted(
    path for pattern in ("*.md", "docs/*.md", "examples/*/*.md", "benchmarks/*.md") for path in REPO.glob(pattern)
)
_BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(path: Path) -> list[str]:
    """What GitHub makes of the headings of a document: small letters, no punctuation, `-` for a space."""
    headings = re.findall(r"^#{1,6} (.+)$", _BLOCK.sub("", path.read_text()), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def broken(path: Path) -> list[str]:
    """The links of a document that lead nowhere in the repo. Addresses elsewhere are not looked at."""
    found: list[str] = []
    for link in _LINK.findall(_BLOCK.sub("", path.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPO)))
def test_links_lead_to_files_and_headings(path: Path) -> None:
    assert broken(path) == []


def test_headings_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One thing\n\n```\n# no heading\n```\n\n## group, user_group\n")
    page = tmp_path / "page.md"
    page.write_text(
        "## Here\n[a](other.md#one-thing) [b](other.md#group-user_group) [c](#here) [d](https://a.example/#b)"
    )
    assert broken(page) == []
    page.write_text("[a](other.md#no-heading) [b](gone.md) [c](#here)")
    assert broken(page) == ["other.md#no-heading", "gone.md", "#here"]


def test_headings_of_a_document_are_not_the_same_twice() -> None:
    # The second would have another anchor than its text.
    twice = {path.name: [name for name in anchors(path) if anchors(path).count(name) > 1] for path in DOCUMENTS}
    assert {name: found for name, found in twice.items() if found and name != "CHANGELOG.md"} == {}


def test_documents_that_the_code_names_are_there() -> None:
    sources = [
        path for top in ("amp_pipeline", "amp_pipeline_tests", "benchmarks") for path in (REPO / top).rglob("*.py")
    ]
    named = {(path, name) for path in sources for name in re.findall(r"docs/[\w-]+\.md", path.read_text())}
    assert named
    assert [f"{path.relative_to(REPO)}: {name}" for path, name in sorted(named) if not (REPO / name).is_file()] == []
