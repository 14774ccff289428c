"""Write the tables "differences from the publication" into the pages of the models, from the models themselves.

Run with: python tools/make_differences.py [--check]
A page holds ``<!-- differences: KIND -->`` and ``<!-- end of differences -->``; what stands between them is replaced.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from caloforge.models import differences_table, model_class, model_kinds

PAGES = Path(__file__).resolve().parent.parent / "docs" / "models"
_BLOCK = re.compile(r"(<!-- differences: (\S+) -->\n).*?(<!-- end of differences -->)", re.DOTALL)


def with_tables(text: str) -> tuple[str, set[str]]:
    """A page with its tables renewed, and the kinds whose tables stand in it."""
    kinds: set[str] = set()

    def table(match: re.Match[str]) -> str:
        kinds.add(match[2])
        return f"{match[1]}{differences_table(model_class(match[2]).differences)}{match[3]}"

    return _BLOCK.sub(table, text), kinds


def main(*, check: bool) -> int:
    """Renew all pages, or say which are out of date; then also which kinds have no table."""
    stale, shown = [], set()
    for page in sorted(PAGES.glob("*.md")):
        old = page.read_text(encoding="utf-8")
        new, kinds = with_tables(old)
        shown |= kinds
        if new != old:
            stale.append(page.name)
            if not check:
                page.write_text(new, encoding="utf-8")
    own = {kind for kind in model_kinds() if model_class(kind).__module__.startswith("caloforge.")}
    missing = sorted(own - shown)
    if missing:
        print(f"no page has the table of: {', '.join(missing)}")
    if check and stale:
        print(f"out of date: {', '.join(stale)}; run python tools/make_differences.py")
    return 1 if missing or (check and stale) else 0


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv))
