"""Write ``llms.txt``, the contents of the documentation, and ``llms-full.txt``, all of its pages, for coding agents.

``python docs/llms.py site`` does so after ``mkdocs build``. The form is that of https://llmstxt.org.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent


def pages(entries: list[dict[str, Any]], section: str = "Start") -> Iterator[tuple[str, str, Path]]:
    """Section, title and file of every page, in the order of the navigation."""
    for entry in entries:
        for title, target in entry.items():
            if isinstance(target, str):
                yield section, title, ROOT / "docs" / target
            else:
                yield from pages(target, title)


def summary(text: str) -> str:
    """The first sentence of a page, without links and emphasis."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    paragraphs = [each for each in text.split("\n\n")[1:] if re.match(r"\w|[*`\[]", each)]
    plain = re.sub(r"\[([^]]+)\]\([^)]+\)|[*]", r"\1", " ".join((paragraphs or [""])[0].split()))
    return re.split(r"(?<=[.:]) (?=[A-Z])", plain)[0].rstrip(":")


def write(folder: Path) -> None:
    """Write both files into a folder."""
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    index = [f"# {config['site_name']}", "", f"> {summary((ROOT / 'docs' / 'index.md').read_text())}"]
    full = []
    before = None
    for section, title, page in pages(config["nav"]):
        if section != before:
            index += ["", f"## {section}", ""]
            before = section
        text = page.read_text()
        index.append(f"- [{title}]({page.stem}/): {summary(text)}" if page.stem != "index" else f"- [{title}](./)")
        full.append(f"<!-- {page.name} -->\n\n{text}")
    index += ["", "## Everything", "", "- [All pages in one file](llms-full.txt)"]
    (folder / "llms.txt").write_text("\n".join(index) + "\n")
    (folder / "llms-full.txt").write_text("\n".join(full))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
