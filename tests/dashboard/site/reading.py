"""A page as a reader finds it: its text, its links and the cells of its tables, read from the HTML."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass
class Element:
    """An element, with what is in it."""

    tag: str
    attributes: dict[str, str]
    content: list["Element | str"] = field(default_factory=list)

    @property
    def text(self) -> str:
        """What is read in it, with single spaces."""
        parts = [one if isinstance(one, str) else one.text for one in self.content if not _is_hidden(one)]
        return " ".join("".join(f"{part} " for part in parts).split())

    def all(self, tag: str, **attributes: str) -> Iterator["Element"]:
        """The elements in it, as they come; an attribute `class_` is one of the classes."""
        for one in self.content:
            if isinstance(one, Element):
                classes = one.attributes.get("class", "").split()
                wanted = {name: value for name, value in attributes.items() if name != "class_"}
                is_one = one.tag == tag and all(one.attributes.get(name) == value for name, value in wanted.items())
                if is_one and attributes.get("class_", "") in {"", *classes}:
                    yield one
                yield from one.all(tag, **attributes)


def _is_hidden(one: Any) -> bool:
    return isinstance(one, Element) and one.tag in {"script", "title"}


class _Reader(HTMLParser):
    _EMPTY = frozenset({"meta", "link", "input", "br", "rect", "line", "path"})

    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].content.append(element)
        if tag not in self._EMPTY:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].content.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> ends <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].content.append(data)


class Page:
    """A page; HTML whose elements are not closed in order is an error."""

    def __init__(self, status: int, html: str) -> None:
        self.status, self.html = status, html
        reader = _Reader()
        reader.feed(html)
        reader.close()
        assert len(reader.open) == 1
        self.root = reader.open[0]

    @property
    def text(self) -> str:
        """The text of the content."""
        return next(self.root.all("main")).text

    @property
    def numbers(self) -> dict[str, str]:
        """The key numbers."""
        names = [next(one.all("dt")).text for one in next(self.root.all("dl", class_="numbers")).all("div")]
        values = [next(one.all("dd")).text.split()[0] for one in next(self.root.all("dl", class_="numbers")).all("div")]
        return dict(zip(names, values, strict=True))

    def rows(self, number: int = 0) -> list[dict[str, Element]]:
        """The rows of a table by the titles of its columns."""
        table = list(next(self.root.all("main")).all("table"))[number]
        titles = [one.text for one in next(table.all("thead")).all("th")]
        body = next(table.all("tbody"))
        rows = [
            [cell for cell in row.content if isinstance(cell, Element)]
            for row in body.content
            if isinstance(row, Element) and row.attributes.get("class") != "opened"
        ]
        return [dict(zip(titles, cells, strict=True)) for cells in rows]

    def links(self) -> list[str]:
        """The addresses of all links."""
        return [one.attributes["href"] for one in self.root.all("a") if "href" in one.attributes]

    def link(self, text: str) -> str:
        """The address of the first link with this text."""
        return next(one.attributes["href"] for one in self.root.all("a") if one.text == text)


def query_of(address: str) -> dict[str, str]:
    """The names and values of an address."""
    return dict(parse_qsl(urlsplit(address).query))
