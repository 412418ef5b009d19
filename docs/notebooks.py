"""Notebooks: run here, their outputs written into them; and as pages of the site.

    python docs/notebooks.py [NAME ...]

Every code cell is run in one namespace a notebook, in a folder of its own. What a cell prints is its output, and what
its last expression is: as HTML or a picture where it can be shown so. No kernel is needed, and nothing else is run.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "notebooks"
Cell = dict[str, Any]


def read(path: Path) -> dict[str, Any]:
    """A notebook."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def source(cell: Cell) -> str:
    """The text of a cell."""
    return "".join(cell["source"])


def run(cells: list[Cell], name: str) -> list[list[dict[str, Any]]]:
    """The outputs of each cell, those of text empty, run from top to bottom in the working directory."""
    names: dict[str, Any] = {"__name__": name}
    return [_outputs(source(cell), f"{name}:{n}", names) if cell["cell_type"] == "code" else []
            for n, cell in enumerate(cells)]  # fmt: skip


def _outputs(code: str, where: str, names: dict[str, Any]) -> list[dict[str, Any]]:
    tree = ast.parse(code, where)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, where, "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), where, "eval"), names)  # type: ignore[attr-defined]
    out: list[dict[str, Any]] = []
    if printed.getvalue():
        out.append({"output_type": "stream", "name": "stdout", "text": _lines(printed.getvalue())})
    if value is not None:
        out.append({"output_type": "execute_result", "execution_count": None, "metadata": {}, "data": _data(value)})
    return out


def _data(value: Any) -> dict[str, Any]:
    """What a value is shown as, by type."""
    out: dict[str, Any] = {"text/plain": _lines(repr(value))}
    if hasattr(value, "_repr_html_") and (html := value._repr_html_()) is not None:
        out["text/html"] = _lines(html)
    if hasattr(value, "savefig"):
        drawing = io.BytesIO()
        value.savefig(drawing, format="png", dpi=70)
        out["image/png"] = base64.b64encode(drawing.getvalue()).decode()
        out["text/plain"] = ["a figure"]
    return out


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def texts(outputs: list[dict[str, Any]]) -> str:
    """What outputs say as text: printed, and values."""
    parts = ["".join(one.get("text") or one["data"]["text/plain"]) for one in outputs]
    return "\n".join(part.rstrip("\n") for part in parts)


def write(path: Path) -> None:
    """Run a notebook and put what comes out into it."""
    content = read(path)
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            outputs = run(content["cells"], path.stem)
        finally:
            os.chdir(before)
    count = 0
    for cell, out in zip(content["cells"], outputs, strict=True):
        if cell["cell_type"] == "code":
            count += 1
            for one in out:
                if "execution_count" in one:
                    one["execution_count"] = count
            cell |= {"execution_count": count, "outputs": out}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def page(path: Path) -> str:
    """A notebook as a page in Markdown, with the outputs that stand in it."""
    out = []
    for cell in read(path)["cells"]:
        if cell["cell_type"] == "markdown":
            out.append(source(cell))
            continue
        out.append(f"```python\n{source(cell)}\n```")
        for one in cell["outputs"]:
            data = one.get("data", {})
            if "image/png" in data:
                out.append(f'<img alt="" src="data:image/png;base64,{data["image/png"].strip()}">')
            elif "text/html" in data:
                out.append("".join(data["text/html"]).replace("\n\n", "\n"))
            else:
                text = "".join(one.get("text") or data["text/plain"]).rstrip("\n")
                out.append(f"```text\n{text}\n```")
    out.append(f"The notebook itself: [{path.name}]({path.name})")
    return "\n\n".join(out) + "\n"


if __name__ == "__main__":
    for wanted in sys.argv[1:] or sorted(one.stem for one in FOLDER.glob("*.ipynb")):
        print(wanted, flush=True)
        write(FOLDER / f"{wanted}.ipynb")
