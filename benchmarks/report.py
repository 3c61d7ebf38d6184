"""Where the benchmarks write their tables."""

import re
from pathlib import Path

README = Path(__file__).with_name("README.md")


def write_section(name: str, text: str) -> None:
    """Put ``text`` between the markers ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``.

    Raises:
        ValueError: benchmarks/README.md has no such markers.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    content = README.read_text()
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(content):
        raise ValueError(f"{README} has no section {name}")
    README.write_text(pattern.sub(lambda _: f"{begin}\n\n{text}\n\n{end}", content))
    print(text)
