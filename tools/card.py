"""The picture that other sites show beside a link to the book: book/_static/social-card.png.

    python -m tools.card

Chromium draws it from the logo and the title; run it again when one of them changes.
"""

from playwright.sync_api import sync_playwright

from tools import ROOT, chromium

STATIC = ROOT / "book" / "_static"
CARD = STATIC / "social-card.png"
WIDTH, HEIGHT = 1200, 630  # what Open Graph readers expect

PAGE = """
<style>
  body { margin: 0; background: #fff; color: #12303a; font-family: "DejaVu Sans", sans-serif; }
  main { box-sizing: border-box; height: 630px; padding: 90px; border-bottom: 16px solid #16898b; }
  header { display: flex; align-items: center; gap: 40px; }
  svg { width: 170px; height: 170px; }
  h1 { font-size: 108px; margin: 0; }
  p { font-size: 42px; line-height: 1.4; margin: 56px 0 0; }
</style>
<main><header>%s<h1>Balancing</h1></header>
<p>What flows into a hidden unit minus what flows out of it: a book about that one quantity</p>
</main>
"""


def draw() -> bytes:
    """The picture as a PNG."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium.find(), args=chromium.FLAGS)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_content(PAGE % (STATIC / "logo.svg").read_text(encoding="utf-8"))
        picture: bytes = page.screenshot()
        browser.close()
    return picture


if __name__ == "__main__":
    CARD.write_bytes(draw())
    print(CARD.relative_to(ROOT))
