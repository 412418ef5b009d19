"""For mkdocs: what of the site is made when it is built. Pictures of runs, the benchmarks' results, notebooks as pages,
and the colours of code."""

from __future__ import annotations

import io
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from pygments.formatters import HtmlFormatter

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import notebooks  # noqa: E402

BENCHMARKS = HERE.parent / "benchmarks"
SOURCES = re.compile(r"\]\((?!https?:|#)([^)]+)\)")


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """mkdocs calls this with the files that it has found."""
    made: dict[str, str | bytes] = {"css/highlight.css": highlighting(), "benchmarks.md": results()}
    made |= {f"gallery/{name}": picture for name, picture in pictures().items()}
    for path in sorted((HERE / "notebooks").glob("*.ipynb")):
        made[f"notebooks/{path.stem}.md"] = notebooks.page(path)
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def highlighting() -> str:
    """Colours of code by day and by night."""
    night = HtmlFormatter(style="github-dark").get_style_defs("[data-bs-theme=dark] .highlight")
    return HtmlFormatter(style="default").get_style_defs(".highlight") + "\n" + night + "\n"


def results() -> str:
    """The benchmarks' README: links to pages of the site lead there, others become text."""
    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in HERE.glob("*.md")}

    def link(found: re.Match[str]) -> str:
        name, _, anchor = found[1].partition("#")
        inside = name.removeprefix("../docs/")
        if inside in pages:
            return f"]({inside}{'#' + anchor if anchor else ''})"
        picture = Path(name).name
        return f"](gallery/{picture})" if picture.endswith(".png") else "]"

    return re.sub(r"\[([^\]]+)\]$", r"\1", SOURCES.sub(link, text), flags=re.M)


def pictures() -> dict[str, bytes]:
    """A run, a search, and what the benchmarks have drawn."""
    import cosoc

    def png(figure: Any) -> bytes:
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=110)
        return out.getvalue()

    with tempfile.TemporaryDirectory() as folder:
        found = cosoc.search("diana", "dscnn", space="channels+tiles", epochs=0, out=Path(folder) / "run")
    drawn = {
        "gantt.png": png(cosoc.simulate("diana", "resnet8", runtime="overlapped").plot()),
        "front.png": png(found.plot()),
    }
    return drawn | {path.name: path.read_bytes() for path in sorted((BENCHMARKS / "results").glob("*.png"))}
