"""Put what `python -m benchmarks --json FILE` measured into the documentation.

    python -m benchmarks.paste FILE

The file is kept as docs/performance.json. Its table goes between the markers in the pages.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from tools.benchmarks.table import Row, as_markdown
from utils.errors import UserError
from utils.files import atomic_write
from utils.options import OptionParser
from utils.program import command_line

ROOT = Path(__file__).resolve().parents[2]
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


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = OptionParser(__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="the .json that was measured")
    file = parser.parse_args(argv).file
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        texts = {page: pasted(page.read_text(encoding="utf-8"), content) for page in PAGES}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: is not what python -m benchmarks --json writes ({error!r})") from error
    texts[KEPT] = json.dumps(content, indent=1) + "\n"
    for path, text in texts.items():
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
