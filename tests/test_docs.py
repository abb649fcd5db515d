"""Every Python snippet of the README and the documentation runs."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from fastapi_tollbooth import ConfigurationError, Reject, cors, errors
from fastapi_tollbooth.cli import main
from fastapi_tollbooth.ledger.operations import Reason
from tests.service import free_port, wait_for

ROOT = Path(__file__).parent.parent
SKILL = ROOT / "fastapi_tollbooth" / "skill" / "SKILL.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", SKILL, *sorted((ROOT / "docs").glob("*.md"))]
SNIPPET = re.compile(r"```python\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def snippets() -> list[tuple[str, str]]:
    return [
        (f"{page.name}-{number}", code)
        for page in PAGES
        for number, code in enumerate(SNIPPET.findall(page.read_text()), 1)
    ]


def test_there_are_snippets() -> None:
    assert len(snippets()) >= 8


EXAMINED = """
if getattr(getattr(globals().get("app"), "state", None), "tollbooth", None) is not None:
    from fastapi_tollbooth.doctor import Patient
    from fastapi_tollbooth.doctor import configuration as checks

    patient = Patient(app, app.state.tollbooth)
    found = [each for check in (checks.fallbacks, checks.caps, checks.amounts, checks.cors) for each in check(patient)]
    assert all(each.level == "ok" for each in found), found
"""
"""After a snippet: what it shows is nothing that doctor would advise against."""


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
        (tmp_path / "snippet.py").write_text(code + EXAMINED)
        command = [sys.executable, "-W", "error", "snippet.py"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_every_page_says_something() -> None:
    assert [page.name for page in PAGES if len(page.read_text()) < 200] == []


def anchors(page: Path) -> set[str]:
    headings = HEADING.findall(re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
    return {re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        found = page.parent / target if target else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), f"{target}#{anchor}"


def test_snippets_satisfy_a_strict_type_checker(tmp_path: Path) -> None:
    first = SNIPPET.findall((ROOT / "README.md").read_text())[0]
    (tmp_path / "my_service.py").write_text(first)
    for name, code in snippets():
        text = code if "import" in code else f"{first}\n{code}"
        # Tests are written without annotations, as most people write them.
        first_line = "# mypy: allow-untyped-defs\n" if "def test_" in code else ""
        (tmp_path / f"{re.sub('[^a-z0-9]', '_', name.lower())}.py").write_text(first_line + text)
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = true\nplugins = pydantic.mypy\n")
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "."]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if "No module named mypy" in finished.stderr:
        pytest.skip("mypy is in the environment of `make check`")
    assert finished.returncode == 0, finished.stdout


def test_the_table_of_settings_is_the_one_that_the_code_makes() -> None:
    from fastapi_tollbooth.variables import page

    assert (ROOT / "docs" / "settings.md").read_text().endswith(page()), "end it with `fastapi-tollbooth settings`"


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


OWNERS = {"ConfigurationError"}


def raised_reasons() -> set[str]:
    """Every slug that a refusal is made with, and those of the ledger."""
    found = {reason.value for reason in Reason} | {Reject().reason}
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type)} | {"Rejected"}
    for path in (ROOT / "fastapi_tollbooth").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds - OWNERS:
                slugs = [each.value for each in node.args[:2] if isinstance(each, ast.Constant)]
                found |= {slug for slug in slugs if isinstance(slug, str) and re.fullmatch("[a-z]+(_[a-z]+)+", slug)}
    return found


def test_every_reason_has_an_anchor_with_its_cause_and_cure_and_no_other_has() -> None:
    page = (ROOT / "docs" / "reasons.md").read_text()
    sections = dict(re.findall(r"^### `([a-z_]+)`\n\n(.+?)(?=\n##|\Z)", page, re.MULTILINE | re.DOTALL))
    assert set(sections) == raised_reasons()
    assert [reason for reason, text in sections.items() if len(text) < 30] == []


class Raised(NamedTuple):
    """A place that makes a configuration error, and what is constant in its text: "…" stands for the rest."""

    where: str
    reason: str
    text: str


def constant(text: ast.expr) -> str:
    if isinstance(text, ast.Constant) and isinstance(text.value, str):
        return text.value
    return "".join(map(constant, text.values)) if isinstance(text, ast.JoinedStr) else "…"


def configuration_errors() -> Iterator[Raised]:
    for path in sorted((ROOT / "fastapi_tollbooth").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in OWNERS:
                where = f"{path.name}:{node.lineno}"
                assert len(node.args) == 2, f"{where}: a configuration error has a reason and a detail"
                yield Raised(where, *map(constant, node.args))


def test_every_configuration_error_has_an_anchor_with_its_cause_and_cure_and_no_other_has() -> None:
    page = (ROOT / "docs" / "configuration-errors.md").read_text()
    found = re.findall(r"^### `(.+?)`\n\n> ([^\n]+)\n\n(.+?)(?=\n##|\Z)", page, re.MULTILINE | re.DOTALL)
    sections = {reason: (said, help_) for reason, said, help_ in found}
    raised = list(configuration_errors())
    assert [each.where for each in raised if each.reason not in sections] == []
    assert {each.reason for each in raised} == set(sections) == set(re.findall("^### `(.+)`", page, re.MULTILINE))
    for reason, (said, help_) in sections.items():
        assert len(help_) > 60, f"{reason}: cause and cure"
        texts = " ".join(each.text for each in raised if each.reason == reason)
        if texts.strip("…"):  # else what it says is put together elsewhere
            assert [part for part in said.split("…") if part.strip() not in texts] == [], reason
    anchors_of_the_page = anchors(ROOT / "docs" / "configuration-errors.md")
    assert {ConfigurationError(each.reason, "").url.partition("#")[2] for each in raised} <= anchors_of_the_page


def test_every_header_is_documented() -> None:
    page = (ROOT / "docs" / "headers.md").read_text()
    assert [name for name in (*cors.READ, *cors.SENT) if name not in page] == []


def test_every_command_and_option_is_documented() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()

    def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        for key, each in getattr(command, "commands", {}).items():
            yield from commands(each, f"{name} {key}")
        if not hasattr(command, "commands"):
            yield name, command

    sections = dict(re.findall(r"^## `(.+?)`\n(.+?)(?=\n## |\Z)", page, re.MULTILINE | re.DOTALL))
    found = dict(commands(typer.main.get_command(main), "fastapi-tollbooth"))
    assert set(sections) == set(found)
    for name, command in found.items():
        assert command.help.strip().splitlines()[0] in sections[name], name
        for parameter in command.params:
            if parameter.name != "help":
                said = parameter.opts[0] if parameter.param_type_name == "option" else parameter.name.upper()
                assert f"`{said}`" in sections[name], f"{name} {said}"


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f": {page.name}\n" not in navigation] == []


def test_agents_find_every_page(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "docs" / "llms.py", tmp_path], check=True)
    index, full = ((tmp_path / name).read_text() for name in ("llms.txt", "llms-full.txt"))
    for page in (ROOT / "docs").glob("*.md"):
        assert page.read_text() in full
        listed = re.search(rf"^- \[.+\]\({page.stem}/\): .{{20,}}", index, re.MULTILINE)
        assert listed or page.stem == "index", page.stem


def test_the_skill_is_in_the_package_and_says_when_to_use_it() -> None:
    head = SKILL.read_text().split("---")[1]
    assert "name: fastapi-tollbooth" in head
    assert len(head.partition("description: ")[2]) < 1024


def test_the_tutorial_is_paid_with_its_own_commands(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text()
    (tmp_path / "shop.py").write_text(SNIPPET.findall(page)[0])
    section = page.partition("## Be paid")[2]
    commands = re.findall(r"^\$ (.+)$", section.partition("```console")[2].partition("```")[0], re.MULTILINE)
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": programs, "HOME": str(tmp_path)}
    port = free_port()
    serve = [sys.executable, "-m", "uvicorn", "shop:app", "--port", str(port), "--log-level", "warning"]
    server = subprocess.Popen(serve, cwd=tmp_path, env=environment)
    try:
        wait_for(f"http://127.0.0.1:{port}")
        script = "\n".join(commands).replace("localhost:8000", f"127.0.0.1:{port}")
        finished = subprocess.run(
            ["bash", "-ec", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
    finally:
        server.terminate()
        server.wait(20)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith('{"sky":"blue"}')
    assert "captured" in finished.stdout
    assert "$0.01" in finished.stdout
