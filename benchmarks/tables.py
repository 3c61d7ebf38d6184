"""Medians with their range, and a README whose tables are written by the scripts."""

from pathlib import Path
from statistics import median

README = Path(__file__).with_name("README.md")


def show(values, digits=0):
    """Return ``median (lowest-highest)``."""
    low, middle, high = (
        f"{value:.{digits}f}" for value in (min(values), median(values), max(values))
    )
    return f"{middle} ({low}-{high})"


def ratios(ours, theirs):
    """Return the ratios of runs made in turn."""
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def chart(title, runs):
    """Return a bar chart of the medians, in Mermaid's language, which GitHub draws."""
    names = ", ".join(f'"{name}"'.replace("\\|", "|") for name in runs)
    values = ", ".join(f"{median(values):.2f}" for values in runs.values())
    lines = ["```mermaid", "xychart-beta horizontal", f'  title "{title}"']
    lines += [f"  x-axis [{names}]", f"  bar [{values}]", "```"]
    return "\n".join(lines)


def write(name, text):
    """Put a text between a script's own markers in the README."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    page = README.read_text() if README.exists() else "# Benchmarks\n"
    if begin not in page:
        page = f"{page.rstrip()}\n\n{begin}\n{end}\n"
    before, _, rest = page.partition(begin)
    after = rest.partition(end)[2]
    README.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}")
