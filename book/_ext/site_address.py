"""What depends on the site's address follows from one setting, ``html.baseurl`` of _config.yml.

A host shows the page for addresses that do not exist under the address that was asked for, at any
depth, so the links of that page alone cannot be relative.
"""

from typing import Any
from urllib.parse import urlsplit

from sphinx.application import Sphinx
from sphinx.config import Config

NOT_FOUND = """\
<h1>Page not found</h1>
<p>There is no page at this address. It may have got another name as the book grew.</p>
<p><a href="{top}{root}.html">The first page</a> lists all chapters, and the
<a href="{top}search.html">search</a> goes through their text.</p>
"""


def derive(app: Sphinx, config: Config) -> None:
    """Tell the extensions for link previews and for the missing page where the site lives."""
    top = urlsplit(config.html_baseurl).path or "/"
    config.ogp_site_url = config.html_baseurl
    config.notfound_urls_prefix = top
    body = NOT_FOUND.format(top=top, root=config.master_doc)
    config.notfound_context = {"title": "Page not found", "body": body}


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx, before the extensions look at their settings."""
    app.connect("config-inited", derive, priority=100)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
