"""Pages lead to files and headings that there are, and somebody leads to every page."""

from __future__ import annotations

from tests.docs import pages


def test_links_within_the_project_lead_to_files_and_headings_that_there_are() -> None:
    """Seen to fail with a heading renamed that another page leads to."""
    lost: list[str] = []
    for page in [*pages.files(), pages.ROOT / "CHANGELOG.md", pages.ROOT / "tests" / "TRUST.md"]:
        for link in pages.links(page):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            if "://" in link or link.startswith("mailto:"):
                continue
            if not target.is_relative_to(pages.ROOT) or not target.exists():
                lost.append(f"{page.name}: {link}: there is no such file")
            elif anchor and anchor not in pages.anchors(target):
                lost.append(f"{page.name}: {link}: there is no such heading")
    assert lost == []


def test_the_readme_leads_to_every_page() -> None:
    linked = {link.partition("#")[0] for link in pages.links(pages.ROOT / "README.md")}
    assert {str(page.relative_to(pages.ROOT)) for page in pages.files()} - linked == {"README.md"}


def test_pictures_are_small_and_shown_somewhere() -> None:
    drawn = set((pages.ROOT / "docs" / "images").iterdir())
    assert drawn == {
        (page.parent / link).resolve() for page in pages.files() for link in pages.links(page) if ".png" in link
    }
    assert all(picture.stat().st_size < 200_000 for picture in drawn)
