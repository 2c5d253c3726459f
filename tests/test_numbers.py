"""Numbers in prose: each is in the code of its chapter or in what the code prints, or is a fact from elsewhere."""

import re

import pytest
import rules
from conftest import ROOT
from test_prose import CHAPTERS, spoken

NUMBER = re.compile(r"(?<![\w.@#§-])(\d{1,3}(?:,\d{3})+|\d+\.\d+|\d+)(\s?(?:%|per cent\b))?(?![\w]|\.\d)")
IN_CODE = re.compile(r"(?<![A-Za-z_])\d[\d_,]*\.?\d*(?:e-?\d+)?")
# Places in the book, years, versions and items of lists claim nothing.
PLACES = re.compile(
    r"\b(?:chapters?|appendix|eq\.|section|step|PEP|RFC|Python|version|Ranger|licen[cs]e)\s+\d[\d.]*"
    r"(?:(?:,|,? and| to|–)\s?\d[\d.]*)*|\b(?:1[89]|20)\d\d\b|^\s*\d+\. |\(\d{2,3}(?:, \d{2,3})*\)"
    r"|\b[A-Z][A-Za-z ]+ \d+, \d+–\d+",
    re.MULTILINE | re.IGNORECASE,
)
# Facts that no code of the chapter can compute: number, and whose it is.
FACTS = {
    "1_data/131_registry": {"53,000": "beads of the published study", "37,000": "of them after quality control"},
    "1_data/136_slideseq": {"4,000": "genes of squidpy's file, as its documentation says"},
    "1_data/14_simulate": {"0.4": "one less the spatial share of the published simulations, 0.6"},
    "4_inference/421_parts": {"1,231": "spots of the quilt simulation without the held-out ones"},
    "5_reading/506_recovery": {"0.99": "published tables", "2,304": "spots of the simulation, 48 × 48"},
    "5_reading/52_prediction": {"128": "MB of 2^24 numbers of 8 bytes"},
    "5_reading/532_dot_plot": {"1,052": "beads of the crop, which may not be there"},
    "5_reading/53_enrichment": {"500": "a number of genes for an example"},
    "5_reading/551_pixels": {"10,000": "the spots above which a map is a picture: chapter 55"},
    "5_reading/55_maps": {"200": "a size of tissues for an example", "50,000": "a size of tissues for an example"},
    "6_interface/61_mefisto": {"0.36": "distance of neighbours on a small grid of unit variance"},
    "6_interface/645_atlas_data": {"256": "shades of a colour of one byte"},
    "6_interface/646_atlas_maps": {"5,000": "spots up to which a page without WebGL draws"},
    "6_interface/64_report": {"644": "a chapter"},
    "6_interface/68_pl": {"100,000": "a size of tissues for an example"},
    "7_experiments/72_choose_factors": {"2,695": "spots of the section: benchmarks/suggest.py visium"},
    "8_studies/80_simulations": {"0.2": "published setting", "500": "published setting"},
    "8_studies/81_slideseqv2_hippocampus": {"1.91": "published tables"},
    "8_studies/83_xyzeq_liver": {"288": "published tables"},
    "8_studies/85_tissues": {
        "2,000": "genes of the published studies", "2,500": "cells of benchmarks/full_size.py", "289": "its wells",
        "500": "genes of the section",
    },
    "8_studies/86_full_size": {"180": "GB that the published jobs asked for", "289": "wells", "3,000": "published"},
    "9_guides/90_first_fit": {"1,000": "for an example", "15,000": "for an example", "2,000": "for an example"},
    "9_guides/93_choosing": {"1,500": "default number of inducing points: chapter 22"},
    "9_guides/95_faq": {"1,500": "default number of inducing points: chapter 22"},
    "appendix/A1_departures": {"60": "per cent, a published setting"},
    "index": {"150": "fits of the published simulations: chapter 84"},
}


def claims(text):
    """Numbers that say something: with a decimal point or a per cent sign, or of three digits and more."""
    for number, share in NUMBER.findall(PLACES.sub(" ", spoken(text))):
        if share or "." in number or len(number) > 2:
            yield number, bool(share)


def code_numbers(notebook):
    """Numbers in code, and in text that it printed."""
    found = set()
    for cell in rules.code_cells(notebook):
        printed = ["".join(out.get("text", "")) for out in cell.get("outputs", [])]
        printed += ["".join(out.get("data", {}).get("text/plain", "")) for out in cell.get("outputs", [])]
        for text in IN_CODE.findall("\n".join([cell["source"], *printed])):
            plain = text.replace("_", "").replace(",", "").rstrip(".")
            found.add(float(plain))
    return found


def is_known(number, share, known):
    """Whether a number is among others, perhaps rounded, or as a share."""
    value, digits = float(number.replace(",", "")), len(number.partition(".")[2])
    if share and any(round(100 * other, digits) in (value, 100 - value) for other in known):
        return True
    return any(round(other, digits) == value for other in known)


def unfounded(notebook, facts=()):
    """Numbers in the prose of a chapter that are neither in its code nor a known fact."""
    known = code_numbers(notebook)
    return sorted({number for number, share in claims(rules.prose(notebook))
                   if number not in facts and not is_known(number, share, known)})


@pytest.mark.parametrize("name", sorted(CHAPTERS))
def test_numbers_in_prose_are_computed_or_facts(name):
    facts = FACTS.get(name, {})
    assert unfounded(CHAPTERS[name], facts) == []
    assert sorted(facts) == sorted(set(facts) & set(unfounded(CHAPTERS[name]))), "a fact that is no longer needed"


def test_facts_belong_to_chapters():
    assert set(FACTS) <= set(CHAPTERS) and all(text for facts in FACTS.values() for text in facts.values())
    assert (ROOT / "nbs").is_dir()


def test_unfounded_numbers_are_noticed():
    def notebook(prose, code):
        cells = [{"cell_type": "markdown", "source": prose, "metadata": {}},
                 {"cell_type": "code", "source": code, "metadata": {}, "outputs": [{"text": "0.1234\n"}]}]
        return {"cells": cells}

    assert unfounded(notebook("It is 0.12, 12 % of 1,500, in 3 steps.", "n = 1_500")) == []
    assert unfounded(notebook("It is 0.13, 14 % of 1,600.", "n = 1_500")) == ["0.13", "1,600", "14"]
    assert unfounded(notebook("See chapters 412 and 413 (504), of 1998. `0.7`, $0.8$.", "")) == []
    assert unfounded(notebook("It is 0.13.", ""), {"0.13"}) == []
