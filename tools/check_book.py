"""Open every page of the built book in headless Chromium, with names of other machines blocked, and complain.

    python tools/check_book.py SITE [PAGE ...]      all pages, or these (nbs/00_notation.html)

Of each page: no request leaves the machine, no error on the console, every formula is rendered, every picture loads.
Of the book: the search finds "inducing points", the sidebar opens on a phone, nothing is wider than the phone's screen,
dark is dark, code can be hidden, code can be copied.
"""

import functools
import http.server
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 800}
CHAPTER = "nbs/2_probability/22_inducing.html"
RENDERED = "() => !window.MathJax || !document.querySelector('.math') || MathJax.startup.promise.then(() => true)"
# Raw TeX in text, outside code: delimiters that no script has taken.
RAW = r"""() => {
    const left = [...document.querySelectorAll('.math')].filter((one) => !one.querySelector('mjx-container'));
    const wrong = [...document.querySelectorAll('mjx-merror, [data-mjx-error]')];
    const walker = document.createTreeWalker(document.querySelector('article') || document.body, NodeFilter.SHOW_TEXT);
    const raw = [], TEX = /\\\(|\\\[|\$\$|\\(frac|sum|mathrm|mathcal|lambda|log|text)\b/;
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const inside = node.parentElement.closest('pre, code, mjx-container, script, style, table.dataframe');
        if (!inside && TEX.test(node.data)) raw.push(node.data);
    }
    return [...[...left, ...wrong].map((one) => one.textContent), ...raw].map((text) => text.trim().slice(0, 80));
}"""
BROKEN = """() => [...document.images].filter((one) => !(one.complete && one.naturalWidth))
    .map((one) => one.getAttribute('src').slice(0, 80))"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server that keeps no log."""

    def log_message(self, *args):
        """Say nothing."""


def find_browser() -> str | None:
    """Chromium, or a browser made of it."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def served(site: Path) -> Iterator[str]:
    """The address of the site on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def open_tab(browser, base: str, viewport: dict = WIDE, **options):
    """A tab that notes in `trouble` what goes wrong, requests to elsewhere among it."""
    tab = browser.new_context(viewport=viewport, **options).new_page()
    tab.set_default_timeout(180_000)  # milliseconds: a page of all equations on a machine that does other things
    tab.trouble = []
    tab.on("console", lambda message: message.type == "error" and tab.trouble.append(f"console: {message.text}"))
    tab.on("pageerror", lambda error: tab.trouble.append(f"error: {error}"))
    local = (base, "data:", "blob:")
    tab.on("request", lambda asked: asked.url.startswith(local) or tab.trouble.append(f"request: {asked.url}"))
    return tab


def check_page(tab, base: str, page: str) -> list[str]:
    """Complaints about one page."""
    tab.trouble.clear()
    tab.goto(base + page, wait_until="load")
    if not tab.evaluate(RENDERED):
        tab.trouble.append("MathJax did not start")
    wrong = tab.trouble + [f"formula: {text}" for text in tab.evaluate(RAW)]
    wrong += [f"picture: {source}" for source in tab.evaluate(BROKEN)]
    return [f"{page}: {text}" for text in wrong]


def check_search(tab, base: str) -> list[str]:
    """The search finds inducing points, in their chapter."""
    tab.trouble.clear()
    tab.goto(base + "search.html?q=inducing+points")
    tab.wait_for_selector("#search-results li a")
    found = tab.locator("#search-results li a").evaluate_all("(all) => all.map((one) => one.getAttribute('href'))")
    missing = [] if any("22_inducing" in address for address in found) else ["search: not in its chapter"]
    return missing + [f"search: {text}" for text in tab.trouble]


def check_phone(browser, base: str) -> list[str]:
    """On a phone the sidebar opens and leads to a chapter, and no page is wider than the screen."""
    tab, wrong = open_tab(browser, base, PHONE, is_mobile=True, has_touch=True), []
    some = "api/tl.html", "equations.html", "nbs/8_studies/80_simulations.html", "nbs/9_guides/95_faq.html"
    for page in ("index.html", CHAPTER, *some):
        tab.goto(base + page)
        tab.evaluate(RENDERED)
        if (width := tab.evaluate("document.documentElement.scrollWidth")) > PHONE["width"]:
            wrong.append(f"phone: {page} is {width} pixels wide")
    tab.goto(base + "index.html")
    tab.locator("button.primary-toggle").first.click()
    link = tab.locator("nav.bd-links a:visible", has_text="Models").first
    link.wait_for()
    tab.wait_for_timeout(500)  # it slides in
    link.click()
    tab.wait_for_url("**/parts/3_models.html")
    return wrong + [f"phone: {text}" for text in tab.trouble]


def check_tools(browser, base: str) -> list[str]:
    """Dark is dark, code can be hidden, code can be copied."""
    tab, wrong = open_tab(browser, base, color_scheme="dark"), []
    tab.goto(base + CHAPTER)
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)")
    if sum(dark) > 150:
        wrong.append(f"dark: the page has the colour {dark}")
    if not tab.locator("div.cell_input button.copybtn").count():
        wrong.append("code: no button to copy it")
    code = tab.locator("div.cell_input").first
    tab.evaluate("toggleCode()")
    hidden = not code.locator("pre").first.is_visible()
    tab.evaluate("toggleCode()")
    if not hidden or not code.locator("pre").first.is_visible():
        wrong.append("code: it cannot be hidden and shown again")
    return wrong + [f"tools: {text}" for text in tab.trouble]


def check(site: Path, pages: list[str]) -> list[str]:
    """Complaints about these pages and about the book.

    Parameters
    ----------
    site
        Folder with the built site.
    pages
        Pages to be looked at; all if empty.

    Returns
    -------
    list of str
        What is wrong.
    """
    from playwright.sync_api import sync_playwright

    present = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html") if "_static" not in path.parts)
    with served(site) as base, sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=find_browser(), args=FLAGS)
        tab = open_tab(browser, base)
        wrong = [text for page in pages or present for text in check_page(tab, base, page)]
        wrong += check_search(tab, base) + check_phone(browser, base) + check_tools(browser, base)
        browser.close()
    return wrong


if __name__ == "__main__":
    if find_browser() is None:
        sys.exit("Expected chromium or google-chrome, found neither. Install one of them to check the book.")
    complaints = check(Path(sys.argv[1]).resolve(), sys.argv[2:])
    sys.exit("\n".join(complaints) or 0)
