"""For mkdocs: links that leave docs/ lead somewhere in the sources, but nowhere in the site. There they become text."""

from __future__ import annotations

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)]+)\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """mkdocs calls this for every page, before it is rendered."""
    if "/" in page.file.src_uri:
        return markdown
    return OUTSIDE.sub(r"\1 (`\2`)", markdown)
