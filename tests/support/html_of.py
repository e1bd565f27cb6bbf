"""Reads a page as tests need it: elements with their attributes and texts, by Python's own parser."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

EMPTY = {"meta", "link", "img", "input", "br"}


@dataclass
class Element:
    """An element of a page."""

    tag: str
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    own_text: str = ""

    @property
    def text(self) -> str:
        """Its text and that of all below it."""
        return self.own_text + "".join(child.text for child in self.children)

    def all(self, *tags: str, **attributes: str) -> list[Element]:
        """All elements below it of these tags with these attributes, in order."""
        fits = self.tag in tags and all(
            self.attributes.get(k.rstrip("_")) == v for k, v in attributes.items()
        )
        return [
            *([self] if fits else []),
            *(e for child in self.children for e in child.all(*tags, **attributes)),
        ]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("page", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"an attribute twice in {tag}"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in EMPTY:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"{tag} ends inside {self.open[-1].tag}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].own_text += data


def read_page(text: str) -> Element:
    """The page; fails where elements are not closed in order."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert [e.tag for e in reader.open] == ["page"]
    return reader.open[0]
