"""For mkdocs: links that leave docs/ lead somewhere in the sources, but nowhere in the site, save for the benchmarks'
results. There they become text."""

from __future__ import annotations

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)]+)\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """mkdocs calls this for every page, before it is rendered."""
    if "/" in page.file.src_uri:
        return markdown
    markdown = markdown.replace("](../benchmarks/README.md", "](benchmarks.md")  # which made.py puts into the site
    return OUTSIDE.sub(r"\1 (`\2`)", markdown)
