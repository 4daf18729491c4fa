"""A quiz as HTML that answers by itself: radio buttons, and style rules that look at them.

There is no script in it, so it works wherever HTML is shown: on a page opened from a file, in a
notebook without a kernel, and where scripts are not allowed.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from balancing.quizzes import Option, Question, Quiz

# Colours are those of the text around it. Every option is followed, at the foot of its question,
# by its reply; the rule that shows a reply counts along which option is checked.
STYLE = """\
.balancing-quiz {
  --edge: #8886;
  counter-reset: answered right;
  margin: 1rem 0;
  max-width: 43rem;
}
.balancing-quiz fieldset {
  border: 0;
  border-top: 1px solid var(--edge);
  margin: 0;
  min-width: 0;
  padding: 0.8rem 0 1rem;
}
.balancing-quiz legend {
  float: left; /* else it would stand on the line */
  font: inherit;
  font-weight: 600;
  margin: 0 0 0.3rem;
  padding: 0;
  width: 100%;
}
.balancing-quiz .options {
  clear: both;
  display: grid;
  grid-template-columns: 1.5rem 1fr;
}
.balancing-quiz input {
  font: inherit;
  height: 1rem;
  justify-self: center;
  line-height: inherit;
  margin: 0.4rem 0 0;
  margin-top: calc(0.2rem + (1lh - 1rem) / 2); /* beside the first line of its label */
  width: 1rem;
}
.balancing-quiz label {
  cursor: pointer;
  margin: 0;
  min-height: 24px;
  padding: 0.2rem 0 0.2rem 0.4rem;
}
.balancing-quiz input:focus-visible + label,
.balancing-quiz button:focus-visible {
  outline: 2px solid currentColor;
  outline-offset: 1px;
}
.balancing-quiz .replies {
  grid-column: 1 / -1;
}
.balancing-quiz .replies > p {
  border-left: 4px solid #c4501b;
  margin: 0.5rem 0 0;
  padding: 0.1rem 0 0.1rem 0.8rem;
}
.balancing-quiz .replies > p.right {
  border-left-color: #0a8577;
}
.balancing-quiz input:nth-of-type(1):checked ~ .replies > :nth-child(1),
.balancing-quiz input:nth-of-type(2):checked ~ .replies > :nth-child(2),
.balancing-quiz input:nth-of-type(3):checked ~ .replies > :nth-child(3),
.balancing-quiz input:nth-of-type(4):checked ~ .replies > :nth-child(4) {
  display: block !important; /* as the rule for what is hidden has it in some places */
}
.balancing-quiz input:checked {
  counter-increment: answered;
}
.balancing-quiz input.right:checked {
  counter-increment: answered right;
}
.balancing-quiz .foot {
  align-items: baseline;
  border-top: 1px solid var(--edge);
  display: flex;
  flex-wrap: wrap;
  gap: 0.5rem 1.5rem;
  padding-top: 0.8rem;
}
.balancing-quiz .count {
  margin: 0;
}
.balancing-quiz .right-ones::before {
  content: counter(right);
}
.balancing-quiz .answered::before {
  content: counter(answered);
}
.balancing-quiz button {
  background: none;
  border: 1px solid currentColor;
  border-radius: 4px;
  color: inherit;
  font: inherit;
  min-height: 30px;
  padding: 0.1rem 0.7rem;
}
@media print {
  .balancing-quiz .replies,
  .balancing-quiz .foot {
    display: none;
  }
  .balancing-quiz fieldset {
    break-inside: avoid;
  }
}
"""

_PIECE = re.compile(r"\$(?P<formula>[^$]+)\$|`(?P<code>[^`]+)`|\*(?P<words>[^*\s][^*]*)\*")


def form(quiz: Quiz) -> str:
    """The whole quiz, with its style.

    Raises:
        ValueError: a formula cannot be converted.
    """
    questions = "\n".join(
        _fieldset(question, number, f"quiz-{quiz.chapter}-{number}")
        for number, question in enumerate(quiz.questions, start=1)
    )
    # method="dialog": the Enter key sends a form off, and this one would go nowhere.
    return f"""\
<form class="balancing-quiz" method="dialog" autocomplete="off" \
aria-label="Quiz of chapter {quiz.chapter.lstrip("0")}">
<style>{_small(STYLE)}</style>
{questions}
<div class="foot"><p class="count"><span class="right-ones"></span> right of \
<span class="answered"></span> answered; {len(quiz.questions)} questions</p>
<button type="reset">Start again</button></div>
</form>"""


def inline(text: str) -> str:
    """A text with formulas, emphasis and code as HTML.

    Raises:
        ValueError: a formula cannot be converted, or a sign that opens one closes none.
    """

    def convert(piece: re.Match[str]) -> str:
        if piece["formula"]:
            return formula(piece["formula"])
        if piece["code"]:
            return f"<code>{html.escape(piece['code'], quote=False)}</code>"
        return f"<em>{inline(piece['words'])}</em>"

    parts, end = [], 0
    for piece in _PIECE.finditer(text):
        parts += [_plain(text[end : piece.start()]), convert(piece)]
        end = piece.end()
    return "".join([*parts, _plain(text[end:])])


def formula(latex: str) -> str:
    r"""A formula as MathML, which browsers draw without a script.

    Raises:
        ValueError: it is wrong, or has a command that the converter does not know.
    """
    from latex2mathml.converter import convert  # of the extra "book", which the notebooks need

    braces = re.findall(r"(?<!\\)[{}]", latex)
    if braces.count("{") != braces.count("}"):  # the converter would guess
        raise ValueError(f"the formula ${latex}$ has a brace too many or too few")
    try:
        mathml: str = convert(latex)
    except Exception as error:  # the converter has a dozen kinds
        raise ValueError(f"the formula ${latex}$ cannot be read: {error!r}") from None
    if unknown := re.search(r"\\\w+", re.sub(r"<mtext>.*?</mtext>", "", mathml)):
        raise ValueError(f"the formula ${latex}$ has the unknown command {unknown[0]}")
    return mathml


def _plain(text: str) -> str:
    for sign in "$`":
        if sign in text:
            raise ValueError(f"a single {sign} in '{text.strip()}'")
    return html.escape(text, quote=False)


def _fieldset(question: Question, number: int, name: str) -> str:
    options = "\n".join(
        _radio(option, name, f"{name}-{letter}")
        for letter, option in zip("abcd", question.options, strict=False)
    )
    replies = "".join(_reply(option) for option in question.options)
    # What appears in a box with the role "status" is read aloud.
    return f"""\
<fieldset><legend>{number}. {inline(question.text)}</legend><div class="options">
{options}
<div class="replies" role="status">{replies}</div></div></fieldset>"""


def _radio(option: Option, name: str, id_: str) -> str:
    more = ' class="right"' if option.right else ""
    if not re.search(r"\w", re.sub(r"\$[^$]*\$", "", option.text)):
        # A label of formulas alone is no name for some readers' software.
        more += f' aria-label="{html.escape(option.text.replace("$", ""))}"'
    return (
        f'<input type="radio" name="{name}" id="{id_}"{more}>'
        f'<label for="{id_}">{inline(option.text)}</label>'
    )


def _reply(option: Option) -> str:
    kind, verdict = ("right", "✓ Right.") if option.right else ("wrong", "✗ Not so.")
    # Hidden without the style, too: JupyterLab drops it from a notebook that it does not trust yet.
    return f'<p class="{kind}" hidden><strong>{verdict}</strong> {inline(option.reply)}</p>'


def _small(style: str) -> str:
    """The style without comments and line breaks: every notebook with a quiz stores it."""
    return re.sub(r"\s+", " ", re.sub(r"/\*.*?\*/", "", style))
