"""How chapters become decks of slides, on a small book (the browser tests see the real decks)."""

import io
import re
import sys

import pytest
import yaml
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

from tools import ROOT

sys.path.insert(0, str(ROOT / "book" / "_ext"))
import slides

# Sphinx and docutils announce their own next versions.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

CHAPTER = """\
# 1. A chapter

:::{admonition} In this chapter
**Question.** What is $x$?
:::

:::{prf:theorem} One fact
:label: thm-fact
The fact, $x = x$; see {ref}`fig-logo` and [the paper](https://example.org).
:::

```{figure} logo.png
:name: fig-logo
:alt: a logo
The caption about $x$. More of it: $y$.
```

::::{slide} Nothing changes, $x = x$
- A line.

:::{show} thm-fact
:::
:::{notes}
Say $x^2$ slowly.
:::
::::

::::{slide} A picture
:::{show} fig-logo
:::
::::
"""
MODULES = [{"title": "One & all", "chapters": ["01_one"], "key_theorem": "thm-fact"}]


@pytest.fixture(scope="module")
def deck(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The deck of a book of one chapter."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "book").mkdir()
    (folder / "index.md").write_text("# A book\n\n```{toctree}\nbook/01_one\n```\n")
    (folder / "book" / "01_one.md").write_text(CHAPTER)
    (folder / "book" / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "book" / "modules.yml").write_text(yaml.safe_dump(MODULES))
    warnings = io.StringIO()
    settings = {
        "extensions": ["myst_parser", "sphinx_proof", "course", "slides"],
        "myst_enable_extensions": ["colon_fence", "dollarmath"],
        "numfig": True,
        "author": "Somebody",
        "mathjax_path": "vendor/mathjax/tex-mml-chtml.js",
    }
    with docutils_namespace():
        app = Sphinx(
            folder,
            None,
            folder / "out",
            folder / "trees",
            "html",
            settings,
            status=None,
            warning=warnings,
            freshenv=True,
        )
        app.build()
    assert warnings.getvalue() == ""
    return (folder / "out" / "slides" / "module-1.html").read_text()


def sections(deck: str) -> list[str]:
    return re.findall(r"<section>.*?</section>", deck, re.DOTALL)


def test_slides_follow_the_chapters(deck: str) -> None:
    found = sections(deck)
    titles = [re.search(r"<h\d[^>]*>(.*?)</h\d>", each, re.DOTALL)[1] for each in found]
    plain = [re.sub(r"<[^>]+>", "", title) for title in titles]
    assert plain == [
        "One &amp; all",
        "1. A chapter",
        r"Nothing changes, \(x = x\)",
        "A picture",
    ]
    assert "Somebody" in found[0]
    assert re.search(r"What is <span[^>]*>\\\(x\\\)</span>\?", found[1])
    assert "Question" not in found[1]


def test_reveal_finds_no_sections_within_slides(deck: str) -> None:
    """It would take them for slides below the slide."""
    assert deck.count("<section") == len(sections(deck)) == 4


def test_theorem_keeps_its_number_and_loses_links_to_pages(deck: str) -> None:
    theorem = sections(deck)[2]
    assert "Theorem 1 " in theorem
    assert re.findall(r'href="([^"]*)"', theorem) == ["https://example.org"]
    assert "headerlink" not in theorem


def test_figure_keeps_its_number_and_first_sentence(deck: str) -> None:
    figure = sections(deck)[3]
    assert "Fig. 1" in figure
    caption = re.sub(r"<[^>]+>", "", re.search(r"<figcaption>(.*?)</figcaption>", figure, re.S)[1])
    assert caption.strip().endswith(r"The caption about \(x\).")
    assert 'src="../_images/logo.png"' in figure
    assert 'alt="a logo"' in figure


def test_notes_need_no_script_for_formulas(deck: str) -> None:
    notes = re.search(r'<aside class="notes">(.*?)</aside>', sections(deck)[2], re.DOTALL)[1]
    assert "<math " in notes
    assert r"\(" not in notes


def test_everything_loaded_comes_with_the_site(deck: str) -> None:
    loaded = re.findall(
        r'(?:src|href)="([^"]+)"', re.sub(r"<section>.*</section>", "", deck, flags=re.S)
    )
    assert loaded
    assert [each for each in loaded if not each.startswith("../_static/")] == []
    # classic scripts: a page that was opened from a file may load no modules
    assert [each for each in re.findall(r"<script[^>]*>", deck) if "type=" in each] == []


def test_modules_name_chapters_and_labels_that_exist() -> None:
    entries = yaml.safe_load((ROOT / "book" / "modules.yml").read_text())
    listed = slides.modules(ROOT / "book" / "modules.yml")
    sources = {path.stem: path.read_text() for path in (ROOT / "book").glob("[0-9][0-9]_*.md")}
    chapters = [name for module in listed for name in module.chapters]
    assert chapters == sorted(sources)
    for module, entry in zip(listed, entries, strict=True):
        text = "".join(sources[name] for name in module.chapters)
        for kind in ("key_theorem", "key_figure", "explorer"):
            if label := entry.get(kind):
                assert re.search(rf"(?:label|name): {label}\b", text), f"{module.title}: {label}"


@pytest.mark.parametrize(
    ("size", "wide"), [("720 300", True), ("400 300", False), ("300 720", False)]
)
def test_wide_figures_stand_below_the_words(size: str, wide: bool) -> None:
    assert slides._is_wide(f'<svg viewBox="0 0 {size}">') is wide
    explorer = f'<div class="balancing-explorer"><svg viewBox="0 0 {size}"></div>'
    assert not slides._is_wide(explorer)
