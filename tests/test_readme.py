"""README.md and its figures are what nbs/index.ipynb gives."""

import readme

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


def code(source, *outputs):
    return {"cell_type": "code", "source": source, "outputs": list(outputs)}


def test_readme_is_generated():
    assert readme.differences() == [], "run make readme"


def test_an_edited_readme_is_noticed(house_copy):
    (house_copy / "README.md").write_text("by hand", encoding="utf-8")
    (house_copy / "nbs" / "index_files").mkdir(exist_ok=True)
    (house_copy / "nbs" / "index_files" / "old.png").write_bytes(b"")
    assert readme.differences(house_copy) == ["README.md", "nbs/index_files/old.png"]


def test_cells_outputs_and_figures():
    image = {"output_type": "display_data", "data": {"image/png": PIXEL, "text/plain": "<Figure>"}}
    text = {"output_type": "stream", "name": "stdout", "text": ["one\n", "two\n"]}
    noise = {"output_type": "stream", "name": "stderr", "text": "noise"}
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        code("#| hide\nsecret = 1", text),
        code('#| echo: false\n#| fig-cap: "A claim."\nplot()', image),
        code("#| eval: false\nfit()", text, noise),
    ]
    written, figures = readme.render({"cells": cells})
    assert "secret" not in written and "plot()" not in written and "noise" not in written
    assert "# Title\ntext\n\n![A claim.](nbs/index_files/figure-1.png)\n\n```python\nfit()\n```" in written
    assert written.endswith("```text\none\ntwo\n```\n")
    assert figures["nbs/index_files/figure-1.png"].startswith(b"\x89PNG")
