"""What the pages of a built site ask for: files that exist, anchors that exist, nothing from another machine."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

LOADED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src"), ("object", "data")}


class Page(HTMLParser):
    """Anchors of a page, what it links to, and what it loads."""

    def __init__(self, text: str):
        super().__init__()
        self.anchors, self.linked, self.loaded = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Note what a tag refers to."""
        found = dict(attrs)
        self.anchors |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "a" and found.get("href"):
            self.linked.append(found["href"])
        for key, value in attrs:
            if (tag, key) in LOADED and value and found.get("rel") not in ("canonical", "search"):
                self.loaded.append(value)


def check_address(address: str, path: Path, site: Path, pages: dict[Path, Page]) -> str:
    """What is wrong with an address on a page; empty if nothing is."""
    file, anchor = urldefrag(address)
    file = file.partition("?")[0]
    target = (path.parent / unquote(file)).resolve() if file else path
    if target.is_dir():
        target = target / "index.html"
    if not target.is_relative_to(site) or not target.exists():
        return f"leads to {file}, which does not exist"
    if anchor and target in pages and unquote(anchor) not in pages[target].anchors:
        return f"leads to #{anchor}, which {target.relative_to(site)} does not have"
    return ""


def check_site(site: Path) -> list[str]:
    """Complaints about all pages of a site.

    Parameters
    ----------
    site
        Folder with the HTML files.

    Returns
    -------
    list of str
        One for each dead link, missing anchor, missing file, and thing that would be loaded from elsewhere.
    """
    site = site.resolve()
    paths = [path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts]  # templates of the theme
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in paths}
    wrong = []
    for path, page in pages.items():
        name = path.relative_to(site)
        for address in {*page.linked, *page.loaded}:
            elsewhere = urlsplit(address).scheme or address.startswith("//")
            if address.startswith(("data:", "javascript:", "mailto:")) or (elsewhere and address not in page.loaded):
                continue
            if elsewhere:
                wrong.append(f"{name}: loads {address} from another machine")
            elif complaint := check_address(address, path, site, pages):
                wrong.append(f"{name}: {complaint}")
    return wrong
