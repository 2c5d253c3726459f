"""The list of chapters: _quarto.yml, read once."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Chapter:
    """One page of the book; `path` is relative to the root of the repository."""

    path: str

    @property
    def docname(self) -> str:
        """Name of the page, without suffix."""
        return self.path.rpartition(".")[0]

    @property
    def number(self) -> str:
        """What the file name says: 412, A3; empty for pages without number."""
        found = re.match(r"([A-Z]?\d+)_", self.path.rpartition("/")[2])
        return found[1] if found else ""


@dataclass(frozen=True)
class Part:
    """Chapters under one title."""

    title: str
    chapters: tuple[Chapter, ...]

    @property
    def number(self) -> str:
        """The first sign of the numbers of its chapters: the layer, or A."""
        return self.chapters[0].number[:1]

    @property
    def docname(self) -> str:
        """Name of the page that lists the chapters."""
        return "parts/" + "_".join([self.number, *re.findall(r"\w+", self.title.lower())])


@dataclass(frozen=True)
class Book:
    """Title, parts and chapters in order, and the files of the bibliography."""

    title: str
    subtitle: str
    author: str
    entries: tuple[Chapter | Part, ...]
    bibliography: tuple[str, ...]
    fold: bool | str

    def chapters(self) -> Iterator[Chapter]:
        """All chapters, in order."""
        for entry in self.entries:
            yield from entry.chapters if isinstance(entry, Part) else (entry,)

    def parts(self) -> list[Part]:
        """The parts, in order."""
        return [entry for entry in self.entries if isinstance(entry, Part)]

    def numbers(self) -> dict[str, str]:
        """Number of a chapter -> its path."""
        return {chapter.number: chapter.path for chapter in self.chapters() if chapter.number}


def read_entry(item: str | dict) -> Chapter | Part:
    """An item of the list in _quarto.yml."""
    if isinstance(item, str):
        return Chapter(item)
    return Part(item["part"], tuple(map(Chapter, item["chapters"])))


def read_book(root: Path) -> Book:
    """The book that _quarto.yml describes."""
    text = yaml.safe_load((root / "_quarto.yml").read_text(encoding="utf-8"))
    book, listed = text["book"], text.get("bibliography", [])
    entries = [read_entry(item) for item in book["chapters"]]
    if book.get("appendices"):
        entries.append(Part("Appendix", tuple(map(Chapter, book["appendices"]))))
    return Book(
        book["title"], book.get("subtitle", ""), book.get("author", ""), tuple(entries),
        tuple([listed] if isinstance(listed, str) else listed), text["format"]["html"].get("code-fold", False),
    )


def read_keys(root: Path, book: Book) -> set[str]:
    """Keys of the bibliography."""
    texts = [(root / path).read_text(encoding="utf-8") for path in book.bibliography]
    return {key for text in texts for key in re.findall(r"^@\w+\{([^,\s]+),", text, re.MULTILINE)}
