"""Every Python snippet of the README and the documentation runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SNIPPET = re.compile(r"```python\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\((?!https?://)([^)#]+)")


def snippets() -> list[tuple[str, str]]:
    return [
        (f"{page.name}-{number}", code)
        for page in PAGES
        for number, code in enumerate(SNIPPET.findall(page.read_text()), 1)
    ]


def test_there_are_snippets() -> None:
    assert len(snippets()) >= 8


@pytest.mark.parametrize("code", [pytest.param(code, id=name) for name, code in snippets()])
def test_a_snippet_runs(code: str, tmp_path: Path) -> None:
    first = SNIPPET.findall((ROOT / "README.md").read_text())[0]
    (tmp_path / "my_service.py").write_text(first)
    # Snippets of the README build on its first one; those of a page stand alone.
    code = code if "import" in code else f"{first}\n{code}"
    if "def test_" in code:
        (tmp_path / "test_snippet.py").write_text(code)
        command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_snippet.py"]
    else:
        (tmp_path / "snippet.py").write_text(code)
        command = [sys.executable, "-W", "error", "snippet.py"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_every_page_says_something() -> None:
    assert [page.name for page in PAGES if len(page.read_text()) < 200] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_table_of_settings_is_the_one_that_the_code_makes() -> None:
    from fastapi_tollbooth.variables import page

    assert (ROOT / "docs" / "settings.md").read_text().endswith(page()), "end it with `fastapi-tollbooth settings`"


@pytest.mark.parametrize(("pages", "folder"), [("l402.md credit.md", "rails"), ("x402.md", "rails/x402")])
def test_every_reason_of_a_credential_is_documented(pages: str, folder: str) -> None:
    text = "".join((ROOT / "docs" / page).read_text() for page in pages.split())
    sources = "".join(path.read_text() for path in (ROOT / "fastapi_tollbooth" / folder).glob("*.py"))
    refused = r'(?:CredentialRefused|Forbidden|Conflict|Unavailable)\(\s*"([a-z_]+)"'
    elsewhere = {"credit_expired", "credential_revoked", "settlement_unconfirmed", "no_exchange_rate"}
    for reason in set(re.findall(refused, sources)) - elsewhere:
        assert f"`{reason}`" in text, reason


def test_every_attack_is_answered_and_its_tests_are_there() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    rows = re.findall(r"^\| A(\d+) \| (.+?) \| (.+?) \|(.*)\|$", page, re.MULTILINE)
    assert [int(number) for number, *_ in rows] == list(range(1, 48))
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    tests = set(re.findall(r"def (test_\w+)", sources))
    for number, _, answer, named in rows:
        found = re.findall(r"`(test_\w+)`", named)
        assert set(found) <= tests, f"A{number}"
        assert found or "does not apply" in answer, f"A{number}"


def test_every_reason_is_documented() -> None:
    pages = "".join(page.read_text() for page in PAGES)
    sources = "".join(path.read_text() for path in (ROOT / "fastapi_tollbooth").rglob("*.py"))
    refusals = "AmbiguousRequest|BodyTooLarge|CredentialRefused|Forbidden|HookFailed|PricingFailed|TooManyRequests"
    for reason in set(re.findall(rf'(?:{refusals}|Unavailable)\(\s*"([a-z_]+)"', sources)):
        assert re.search(rf"`(?:\d+ )?{reason}`", pages), reason
