"""Put the measured tables of benchmarks/results into docs/results.md and the model cards.

    python tools/update_tables.py

Each text between `<!-- NAME -->` and `<!-- /NAME -->` is replaced by benchmarks/results/NAME.md.
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "docs" / "results.md",
    *sorted((ROOT / "src" / "avse" / "zoo" / "weights").glob("*/README.md")),
]
SECTION = re.compile(r"(<!-- (?P<name>[\w-]+) -->\n).*?(<!-- /(?P=name) -->)", re.DOTALL)


def filled(text: str) -> str:
    """The page with every section replaced by its table."""

    def table(match: re.Match[str]) -> str:
        measured = ROOT / "benchmarks" / "results" / f"{match['name']}.md"
        return match[1] + measured.read_text(encoding="utf-8") + match[3]

    return SECTION.sub(table, text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
        print(page.relative_to(ROOT))
