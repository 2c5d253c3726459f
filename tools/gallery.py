"""Write the pictures of the landing page, nbs/index_files/gallery/*.png, from what the chapters have stored.

    python tools/gallery.py            write
    python tools/gallery.py --check    exit with 1 if a picture is not what its chapter gives

A picture is a part of a figure, made small, on white, in few colours. The box of the part is left, top, right and
bottom, as shares of the figure.
"""

import base64
import io
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "nbs/index_files/gallery"
SIZE, COLOURS = (480, 340), 96


@dataclass(frozen=True)
class Picture:
    """The figure that a picture is part of: path of its chapter under nbs/, its label, and the box."""

    chapter: str
    label: str
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    @property
    def path(self) -> str:
        """Where the picture lies, seen from the root."""
        return f"{FOLDER}/{self.label.removeprefix('fig-')}.png"


PICTURES = (
    Picture("8_studies/82_visium_mouse_brain", "fig-brain-factors", (0.0, 0.0, 0.6, 0.5)),
    Picture("8_studies/81_slideseqv2_hippocampus", "fig-hippo-factors", (0.0, 0.0, 0.6, 0.5)),
    Picture("8_studies/80_simulations", "fig-recovery", (0.0, 0.5, 0.75, 1.0)),
    Picture("3_models/32_spatial", "fig-nsf-draw", (0.0, 0.0, 0.385, 1.0)),
    Picture("5_reading/521_draws", "fig-draws-maps"),
    Picture("5_reading/542_composite", "fig-composite"),
    Picture("5_reading/532_dot_plot", "fig-dots-genes", (0.0, 0.0, 1.0, 0.46)),
    Picture("7_experiments/72_choose_factors", "fig-suggestion-simulated", (0.0, 0.0, 0.545, 1.0)),
    Picture("6_interface/648_atlas", "fig-atlas", (0.0, 0.0, 1.0, 0.53)),
)


def stored_figure(notebook: dict, label: str) -> bytes:
    """The last picture of the cell with a label.

    Parameters
    ----------
    notebook
        As it is stored.
    label
        For example "fig-recovery".

    Returns
    -------
    bytes
        A PNG file; a LookupError if there is none.
    """
    for cell in notebook["cells"]:
        if re.search(rf"^#\| label: {re.escape(label)}$", "".join(cell["source"]), re.MULTILINE):
            found = [o["data"]["image/png"] for o in cell["outputs"] if "image/png" in o.get("data", {})]
            if found:
                return base64.b64decode("".join(found[-1]))
    raise LookupError(f"no stored figure {label}")


def draw(figure: bytes, box: tuple[float, float, float, float]) -> Image.Image:
    """A part of a figure as a picture of the gallery.

    Parameters
    ----------
    figure
        A PNG file.
    box
        Left, top, right and bottom, as shares.

    Returns
    -------
    PIL.Image.Image
        `SIZE` pixels, `COLOURS` colours.
    """
    whole = Image.open(io.BytesIO(figure)).convert("RGBA")
    paper = Image.new("RGBA", whole.size, "white")
    paper.alpha_composite(whole)
    sides = [round(share * length) for share, length in zip(box, whole.size * 2, strict=True)]
    part = paper.convert("RGB").crop(tuple(sides))
    scale = min(SIZE[0] / part.width, SIZE[1] / part.height)
    part = part.resize((round(scale * part.width), round(scale * part.height)), Image.Resampling.LANCZOS)
    made = Image.new("RGB", SIZE, "white")
    made.paste(part, ((SIZE[0] - part.width) // 2, (SIZE[1] - part.height) // 2))
    return made.quantize(COLOURS, dither=Image.Dither.NONE)


def made(root: Path = ROOT) -> dict[str, Image.Image]:
    """All pictures by their paths."""
    found = {}
    for picture in PICTURES:
        notebook = json.loads((root / "nbs" / f"{picture.chapter}.ipynb").read_text(encoding="utf-8"))
        found[picture.path] = draw(stored_figure(notebook, picture.label), picture.box)
    return found


def differences(root: Path = ROOT) -> list[str]:
    """Pictures that are missing, left over, or differ from what the chapters give by more than a version of Pillow."""
    wanted = made(root)
    wrong = {path.relative_to(root).as_posix() for path in (root / FOLDER).glob("*")} - set(wanted)
    for path, picture in wanted.items():
        if (root / path).exists():
            there = np.asarray(Image.open(root / path).convert("RGB"), dtype=float)
            here = np.asarray(picture.convert("RGB"), dtype=float)
            if there.shape == here.shape and np.abs(there - here).mean() < 2:
                continue
        wrong.add(path)
    return sorted(wrong)


def write(root: Path = ROOT) -> None:
    """Write all pictures, and remove those that are left over."""
    wanted = made(root)
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    for path in (root / FOLDER).glob("*"):
        if path.relative_to(root).as_posix() not in wanted:
            path.unlink()
    for path, picture in wanted.items():
        picture.save(root / path, optimize=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        wrong = differences()
        sys.exit(f"Not what the chapters give: {', '.join(wrong)}. Run: python tools/gallery.py" if wrong else 0)
    write()
