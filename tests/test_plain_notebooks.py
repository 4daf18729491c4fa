"""Pages as notebooks of plain Markdown: a small book with one of each thing that chapters use."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import ROOT

CONF = f"""
import sys
sys.path.insert(0, {str(ROOT / "book" / "_ext")!r})
extensions = ["myst_nb", "sphinx_proof", "sphinx_exercise", "sphinxcontrib.bibtex",
              "sphinx.ext.autodoc", "plain_notebooks"]
html_theme = "sphinx_book_theme"
root_doc = "book/01_one"
nb_execution_mode = "off"
numfig = True
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
bibtex_bibfiles = ["book/a.bib"]
bibtex_reference_style = "author_year"
html_copy_source = False
plain_notebook_pages = ["book/words"]
html_theme_options = {{
    "repository_url": "https://github.com/some/book", "repository_branch": "trunk",
    "launch_buttons": {{"binderhub_url": "https://b.org", "colab_url": "https://c.org",
                       "notebook_interface": "jupyterlab"}},
}}
html_context = {{"default_mode": "auto"}}
"""

FIRST = r"""
# 1. One

```{toctree}
:hidden:
02_two
words
bibliography
library
```

:::{admonition} In this chapter
**Question.** *Why* $a_1 < b$ and $a<b$,
{cite:t}`one` and others {cite:p}`one,two`?
:::

% nobody reads this

(sec-middle)=
## A *middle* of $x$

Costs 5\$ or a_b, _not_ [this](https://a.org/b_c), `x|y`, \*stars\* and < than.[^note]

[^note]: A footnote.

+++

:::{prf:theorem} A name; stated
:label: thm-one
For all $x$

```{math}
:label: eq-one
x
= y_1 .
```

- an item with
  two lines

  $$
  a \\
  b
  $$
- another
:::

:::{prf:proof}
By {eq}`eq-one`:

$$
\begin{aligned}
a &= b \\
  &= c
\end{aligned}
$$
:::

\begin{align}
a &= b \\
c &= d
\end{align}

:::{prf:proof}
*Case 1.* Clear.
:::
"""

SECOND = r"""
More of {numref}`fig-two`, {prf:ref}`thm-one`, {prf:ref}`thm-two`,
{ref}`sec-middle`, [two](02_two.ipynb), [words](words.md),
[books](bibliography.md) and {func}`library.add`.

| Symbol | Meaning |
|---|---|
| $\lvert x \rvert$, $\|x\|$ | a `b \| c` |
| {eq}`eq-one` | |

:::{note}
Be careful.
:::

:::{margin}
In the margin.
:::

## Exercises

(ex-one)=
:::{exercise} Add $x$
:label: ex-01-1
:class: compute
Do it.
:::
"""

THIRD = """
:::{solution-start} ex-01-1
:class: dropdown
:::

Easy, by {prf:ref}`thm-one`.
"""

FOURTH = """
:::{solution-end}
:::

:::{exercise}
:label: ex-01-2
Prove it.
:::

:::{solution} ex-01-2
:class: dropdown
Clear.
:::

1. first
2. second

## Summary

The end.
"""

BIB = """
@article{one, title={A title}, author={Ann One}, year={2001}, journal={J}}
@article{two, title={Other}, author={Bob Two and Cy Three}, year={2002}, journal={J}}
"""

FIGURE = {"mystnb": {"figure": {"name": "fig-two", "caption": "What $x$ is."}}}


def code(source: str, id_: str, text: str = "", **metadata: object) -> NotebookNode:
    outputs = [new_output("display_data", {"text/plain": text})] if text else []
    return new_code_cell(source, id=id_, outputs=outputs, metadata=metadata, execution_count=7)


def notebook(*cells: NotebookNode) -> NotebookNode:
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}, "balancing": {"a": 1}}
    return new_notebook(cells=list(cells), metadata=metadata)


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the finished small site."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "book" / "results").mkdir(parents=True)
    (folder / "book" / "results" / "table.csv").write_text("1\n")
    (folder / "conf.py").write_text(CONF)
    (folder / "library.py").write_text('def add(x):\n    """Add."""\n')
    pages = folder / "book"
    (pages / "a.bib").write_text(BIB)
    (pages / "bibliography.md").write_text("# Books\n\n```{bibliography}\n```\n")
    (pages / "library.md").write_text(
        "# Library\n\n```{eval-rst}\n.. autofunction:: library.add\n```"
    )
    (pages / "words.md").write_text("# Words\n\n(words)=\nSee below.\n\nunit\n: A thing, $x_1$.\n")
    one = notebook(
        new_markdown_cell(FIRST, id="c001"),
        code("setup", "colab", tags=["remove-cell"]),
        code("x = 1\nx", "c002", "1\n", tags=["hide-input"], **FIGURE),
        new_markdown_cell(SECOND, id="c003"),
        code("def add(x): ...", "c004", "no answer"),
        new_markdown_cell(THIRD, id="c005"),
        code("def add_solution(x): 1", "c006"),
        code("add_solution(1)", "c007", "1\n"),
        new_markdown_cell(FOURTH, id="c008"),
        code("last = 1", "c009", tags=["remove-input", "remove-output"]),
    )
    two = notebook(
        new_markdown_cell(
            "# 2. Two\n\n:::{prf:lemma}\n:label: thm-two\nBy {eq}`eq-one`.\n:::", id="c001"
        )
    )
    nbformat.write(one, pages / "01_one.ipynb")
    nbformat.write(two, pages / "02_two.ipynb")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", ".", "_out"]
    env = {"PYTHONPATH": f"{folder}:{ROOT}", "PATH": ""}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder / "_out"


@pytest.fixture(scope="module")
def one(book: Path) -> NotebookNode:
    return nbformat.read(book / "notebooks" / "01_one.ipynb", as_version=4)


@pytest.fixture(scope="module")
def text(one: NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in one.cells if cell.cell_type == "markdown")


def test_code_is_that_of_the_page(book: Path, one: NotebookNode) -> None:
    source = nbformat.read(book.parent / "book" / "01_one.ipynb", as_version=4)
    here, there = ([c for c in each.cells if c.cell_type == "code"] for each in (one, source))
    assert here == there
    assert set(one.metadata) == {"kernelspec", "language_info"}
    assert sorted(path.name for path in (book / "notebooks").iterdir()) == [
        "01_one.ipynb",
        "02_two.ipynb",
        "results",
        "words.ipynb",
    ]
    assert (book / "notebooks" / "results" / "table.csv").is_file()


def test_cells_stand_in_the_order_of_the_page(one: NotebookNode) -> None:
    starts = [
        cell.id if cell.cell_type == "code" else cell.source.split("\n")[0] for cell in one.cells
    ]
    assert starts == [
        "# 1. One",
        '<a id="sec-middle"></a>',
        "colab",
        "c002",
        '<a id="fig-two"></a>**Fig. 1.** What $x$ is.',
        "## Exercises",
        "c004",
        "<details><summary>Solution</summary>",
        "c006",
        "c007",
        '> <a id="ex-01-2"></a>**Exercise 2**',
        "## Summary",
        "c009",
        "## References",
    ]


@pytest.mark.parametrize(
    "expected",
    [
        # boxes, citations, formulas
        r"""
> **In this chapter**
>
> **Question.** *Why* $a_1 < b$ and $a\lt b$,
> One ([2001](#ref-id2)) and others ([One, 2001](#ref-id2), [Two and Three, 2002](#ref-id3))?
""",
        """
<a id="sec-middle"></a>

## A *middle* of $x$
""",
        r"""
Costs 5\$ or a_b, *not* [this](https://a.org/b_c), `x|y`, \*stars\* and < than.""",
        r"""
> <a id="thm-one"></a>**Theorem 1 (A name; stated)**
>
> For all $x$
>
> <a id="equation-eq-one"></a>
> $$x = y_1 . \tag{1}$$
>
> - an item with
>   two lines
>
>   $$\begin{aligned}a \\ b\end{aligned}$$
>
> - another

*Proof.* By [(1)](#equation-eq-one):

$$\begin{aligned} a &= b \\ &= c \end{aligned}$$

∎

$$\begin{aligned} a &= b \\ c &= d \end{aligned} \tag{2}$$

*Proof.* *Case 1.* Clear. ∎
""",
        # references
        """
More of [Fig. 1](#fig-two), [Theorem 1](#thm-one), [Lemma 1](02_two.ipynb#thm-two),
[A middle of x](#sec-middle), [two](02_two.ipynb), [words](words.ipynb),
books and `library.add()`.
""",
        r"""
| Symbol | Meaning |
| --- | --- |
| $\lvert x \rvert$, $\vert x\vert $ | a `b \| c` |
| [(1)](#equation-eq-one) |  |

> **Note**
>
> Be careful.

> **Aside**
>
> In the margin.
""",
        """
**Exercise 1 (Add $x$)**
>
> Do it.
""",
        """
<details><summary>Solution</summary>

Easy, by [Theorem 1](#thm-one).

</details>

**Solution to [Exercise 1 (Add $x$)](#ex-01-1), in code**
""",
        """
> Prove it.

<details><summary>Solution</summary>

Clear.

</details>

1. first
2. second
""",
        """
## References

- <a id="ref-id2"></a>Ann One. A title. J, 2001.
- <a id="ref-id3"></a>Bob Two and Cy Three. Other. J, 2002.""",
    ],
)
def test_markdown(text: str, expected: str) -> None:
    assert expected.strip() in text


def test_other_pages(book: Path) -> None:
    two = nbformat.read(book / "notebooks" / "02_two.ipynb", as_version=4)
    assert "By [(1)](01_one.ipynb#equation-eq-one)." in two.cells[0].source
    words = nbformat.read(book / "notebooks" / "words.ipynb", as_version=4)
    assert words.cells[0].source == "# Words\n\nSee below.\n\n- **unit**: A thing, $x_1$."
    assert words.metadata.kernelspec.name == "python3"


def test_nothing_else_of_the_sources_is_shown(text: str) -> None:
    for word in ("nobody", "+++", ":::", "```", "{", "toctree"):
        assert word not in text.replace("\\begin{", "").replace("\\end{", "").replace("\\tag{", "")


def test_buttons_lead_to_the_notebook(book: Path) -> None:
    page = (book / "book" / "01_one.html").read_text()
    assert 'href="../notebooks/01_one.ipynb"' in page
    assert (
        'href="https://b.org/v2/gh/some/book/trunk?urlpath=lab/tree/notebooks/01_one.ipynb"' in page
    )
    assert 'href="https://c.org/github/some/book/blob/gh-pages/notebooks/01_one.ipynb"' in page
    assert "_sources" not in page
    assert not (book / "_sources").exists()
    assert "download-source" not in (book / "book" / "library.html").read_text()
