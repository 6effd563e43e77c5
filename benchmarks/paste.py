"""Put what `python -m benchmarks --json FILE` measured into the documentation.

    python -m benchmarks.paste FILE

The file is kept as docs/performance.json. Its table goes between the markers in the pages.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from benchmarks.table import Row, as_markdown

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "docs" / "performance.json"
PAGES = [ROOT / "docs" / "performance.md"]
MARKED = re.compile(r"(<!-- python -m benchmarks -->\n).*?(\n<!-- end -->)", re.DOTALL)


def pasted(text: str, content: dict) -> str:
    """A page with the table of `content` between its markers. Raises `ValueError` without markers."""
    if not MARKED.search(text):
        raise ValueError("no markers in the page")
    machine = content["machine"]
    line = f"{machine['processor']}, {machine['cores']} cores, {machine['instructions']}, "
    line += f"GPU: {machine['gpu']}, torch {machine['torch']}, Python {machine['python']}."
    table = as_markdown([Row(**row) for row in content["rows"]])
    return MARKED.sub(lambda match: f"{match[1]}\n{line}\n\n{table}\n{match[2]}", text)


def main(argv: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if argv is None else argv
    content = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    KEPT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for page in PAGES:
        page.write_text(pasted(page.read_text(encoding="utf-8"), content), encoding="utf-8")


if __name__ == "__main__":
    main()
