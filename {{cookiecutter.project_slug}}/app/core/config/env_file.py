"""Checks the ``.env`` file, since a misspelt name would leave the default in effect."""

import re
from difflib import get_close_matches
from pathlib import Path

# A blank line, a comment, or NAME=value, where the quotes of a value are closed.
LINE = re.compile(
    r"""\s*(\#.*)?
    | (export\s+)? (?P<name>[A-Za-z_]\w*) \s*=\s*
      (?P<value> '[^']*' | "(?:\\.|[^"\\])*" | [^'"\s].*)? (\s+\#.*)? \s*""",
    re.VERBOSE,
)


def check_env_file(path: Path, settings: set[str]) -> list[str]:
    """Return one line for each mistake in a ``.env`` file.

    Names that are not settings are accepted if ``.env.example``, in the same folder, has them too:
    other programs read the file as well.
    """
    example = path.with_name(".env.example")
    text = example.read_text(encoding="utf-8") if example.exists() else ""
    known = settings | set(re.findall(r"^(?:# )?([A-Z]\w*)=", text, re.MULTILINE))
    mistakes = []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        return [f"{path.name}: must be encoded in UTF-8"]
    for number, line in enumerate(lines, start=1):
        match = LINE.fullmatch(line)
        if match is None:
            mistakes.append(f"{path.name}, line {number}: must be NAME=value")
        elif (name := match["name"]) and name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else "add it to .env.example to keep it"
            mistakes.append(f"{path.name}, line {number}: {name} is not a setting, {hint}")
        elif re.match(r"(?!')[^#]*\$(?!\{)", match["value"] or ""):
            # Other programs that read the file replace $NAME, this application only ${NAME}.
            mistakes.append(f"{path.name}, line {number}: a value with $ needs single quotes")
    return mistakes
