"""Make the site: convert into a folder of sources, run Sphinx on it, look at every link of what it wrote."""

import configparser
import functools
import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from . import links, modules, pages, reference
from .contents import Book, read_book, read_keys
from .markup import Context, to_myst
from .notebooks import convert_notebook, exported_module

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
LOCAL = re.compile(r"(?:!\[[^\n]*?\]\(|^```\{figure\} )([^():\s]+\.(?:png|svg|jpe?g|webp))\)?", re.MULTILINE)
MATHJAX = ["tex-chtml-full.js", "output/chtml/fonts"]


def read_settings(root: Path) -> dict[str, str]:
    """settings.ini."""
    parser = configparser.ConfigParser(delimiters=["="], interpolation=None)
    parser.read(root / "settings.ini", encoding="utf-8")
    return dict(parser["DEFAULT"])


def write(path: Path, text: str) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def copy_pictures(root: Path, target: Path, path: str, text: str) -> list[str]:
    """Copy the pictures that a page shows; those that are missing are complaints."""
    wrong = []
    for name in LOCAL.findall(text):
        source = (root / path).parent / name
        if source.exists():
            place = (target / path).parent / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)
        else:
            wrong.append(f"{path}: no picture {name}")
    return wrong


def read_notebooks(root: Path, book: Book) -> dict[str, dict]:
    """All notebooks of the book."""
    paths = [chapter.path for chapter in book.chapters() if chapter.path.endswith(".ipynb")]
    return {path: json.loads((root / path).read_text(encoding="utf-8")) for path in paths}


def convert_text(text: str, context: Context) -> str:
    """A page of Markdown; a title in its front matter becomes its heading."""
    head = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    title = re.search(r'^title: *"?(.*?)"?$', head[1], re.MULTILINE) if head else None
    text = text[head.end() :] if head else text
    return to_myst(f"# {title[1]}\n\n{text}" if title else text, context)


def write_chapters(root: Path, target: Path, book: Book, notebooks: dict, settings: dict) -> list[str]:
    """Convert and write all chapters; returns complaints."""
    keys, wrong = read_keys(root, book), []
    for chapter in book.chapters():
        context = Context(keys, book.numbers(), chapter.path)
        address = f"{settings['git_url']}/blob/{settings['branch']}/{chapter.path}"
        if chapter.path in notebooks:
            done = convert_notebook(notebooks[chapter.path], context, address, book.fold is True)
            text = "\n".join(cell["source"] for cell in done["cells"] if cell["cell_type"] == "markdown")
            write(target / chapter.path, json.dumps(done))
            write(target / "extra" / chapter.path, (root / chapter.path).read_text(encoding="utf-8"))
        else:
            text = convert_text((root / chapter.path).read_text(encoding="utf-8"), context)
            full = pages.root_page(text, book) if chapter.docname == "index" else text
            write(target / f"{chapter.docname}.md", full)
        wrong += context.wrong + copy_pictures(root, target, chapter.path, text)
    return wrong


def write_pages(root: Path, target: Path, book: Book, notebooks: dict) -> list[str]:
    """Write the pages that are made of others, and what names stand for; returns complaints."""
    keys = read_keys(root, book)
    chapters = {exported_module(notebook): path.rpartition(".")[0] for path, notebook in notebooks.items()}
    made, places, wrong = reference.make_pages(root, keys, chapters)
    context = Context(keys, here="api/names.md")
    made["api/names"] = pages.names_page(book, notebooks, functools.partial(reference.convert, context=context))
    made["equations"] = pages.equation_page(book, notebooks)
    for part in book.parts():
        made[part.docname] = pages.part_page(part, notebooks, Context(keys, book.numbers(), f"{part.docname}.md"))
    for page, text in made.items():
        write(target / f"{page}.md", text)
    places |= {"nsf_nb": ["api/index", ""]} | {f"nsf_nb.{short}": [f"api/{short}", ""] for short in modules.SHORT}
    for path, notebook in notebooks.items():
        module = exported_module(notebook)
        if module:
            places.setdefault(module, [path.rpartition(".")[0], ""])
        for name in pages.exports_of(notebook) if module else ():
            places.setdefault(f"{module}.{name}", [path.rpartition(".")[0], f"{module}.{name}"])
    names = {path.rpartition(".")[0]: pages.names_in(notebook, places) for path, notebook in notebooks.items()}
    numbers = {c.docname: c.number for c in book.chapters()} | {part.docname: part.number for part in book.parts()}
    write(target / "names.json", json.dumps({"places": places, "pages": names, "numbers": numbers}))
    return wrong + context.wrong


def write_sources(root: Path, target: Path) -> list[str]:
    """Everything that Sphinx reads; returns complaints."""
    shutil.rmtree(target, ignore_errors=True)
    book, settings = read_book(root), read_settings(root)
    notebooks = read_notebooks(root, book)
    wrong = write_chapters(root, target, book, notebooks, settings)
    wrong += write_pages(root, target, book, notebooks)
    for path in book.bibliography:
        shutil.copy(root / path, target / path)
    shutil.copy(HERE / "conf.py", target / "conf.py")
    shutil.copytree(HERE / "static", target / "static")
    write(target / "book.json", json.dumps({
        "title": book.title, "author": book.author, "version": settings["version"], "copyright": settings["copyright"],
        "tools": str(HERE.parent), "bibliography": list(book.bibliography), "address": settings["git_url"],
    }))
    return wrong


def copy_mathjax(target: Path) -> None:
    """The part of MathJax that pages need: one script and its fonts."""
    source = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
    for name in MATHJAX:
        place = target / "static" / "mathjax" / name
        copy = shutil.copytree if (source / name).is_dir() else shutil.copy
        place.parent.mkdir(parents=True, exist_ok=True)
        copy(source / name, place)


def digest(root: Path) -> str:
    """What the site is made of, as one number: pages, notebooks, the package, and these tools."""
    patterns = ["_quarto.yml", "*.qmd", "*.bib", "nbs/**/*.ipynb", "nsf_nb/**/*.py", "tools/book/**/*"]
    patterns += ["settings.ini", "nbs/**/*.png"]
    found = sorted({path for pattern in patterns for path in root.glob(pattern) if path.is_file()})
    hashed = hashlib.sha256()
    for path in found:
        if "__pycache__" not in path.parts:
            hashed.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return hashed.hexdigest()


def main(site: Path, work: Path = ROOT / "build") -> int:
    """Build; the site is replaced when the new one is whole. The exit code is 0 if nothing is wrong."""
    sources, made = work / "book", work / "html"
    wrong = write_sources(ROOT, sources)
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    copy_mathjax(sources)
    shutil.rmtree(made, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "-n", "--keep-going", "-q", "-j", "auto"]
    done = subprocess.run([*command, "-d", str(work / "doctrees"), str(sources), str(made)], check=False)
    wrong = [] if done.returncode else links.check_site(made)
    if done.returncode or wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    write(made / ".digest", digest(ROOT))
    shutil.rmtree(made / "_sources", ignore_errors=True)  # converted ones; the notebooks lie beside their pages
    shutil.rmtree(site, ignore_errors=True)
    shutil.move(made, site)
    print(f"{len(list(site.rglob('*.html')))} pages in {site}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
