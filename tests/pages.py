"""Markdown pages as tests see them: blocks with their marks, command lines, links and anchors.

A block is run unless an HTML comment before it says ``slow`` or what it ``needs`` that is not there. A comment of a
command that says ``exit code N`` is what the command is held to; a YAML block that begins with ``# NAME.yaml`` is
that file.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from erase.cli import cli, main
from erase.cli.options import given_request
from erase.cli.run import parsed
from erase.config import OWN_OPTIONS, EngineConfig, from_dict
from erase.configure import DEFAULT_METHOD, check_preset, chosen_settings, split_options
from erase.method import method_class
from eval.probe import load_probe
from eval.protocol import named

BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>.*?) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LAUNCHED = re.compile(r"^\S.* -m erase (?=\w)")  # torchrun ... -m erase run
SLOW, NEEDS = "slow", "needs "


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block."""

    language: str
    text: str
    mark: str  # empty: it is run

    @property
    def lines(self) -> list[str]:
        """Its lines, those that a backslash continues joined, without empty ones and comments."""
        whole = self.text.replace("\\\n", " ").splitlines()
        return [line for line in whole if line.strip() and not line.lstrip().startswith("#")]

    @property
    def commands(self) -> list[str]:
        """The lines of a shell block that call ``erase``, those of a launcher as what it launches."""
        if self.language != "sh":
            return []
        alone = [LAUNCHED.sub("erase ", line) for line in self.lines]
        return [line for line in alone if line.startswith("erase ")]

    @property
    def file_name(self) -> str:
        """The file that a YAML block is; empty where it does not say."""
        found = re.match(r"# (\S+\.yaml)\n", self.text) if self.language == "yaml" else None
        return found[1] if found else ""

    def is_run(self, *, slow: bool) -> bool:
        """Whether a test runs it; ``slow`` ones too."""
        return not self.mark or (slow and self.mark == SLOW)


def blocks_of(page: Path) -> list[Block]:
    """Every block of a page in order."""
    return [Block(**{name: value or "" for name, value in found.groupdict().items()})
            for found in BLOCK.finditer(page.read_text())]  # fmt: skip


def links_of(page: Path) -> Iterator[tuple[Path, str]]:
    """File and anchor (empty without) of every relative link of a page."""
    for target in LINK.findall(CODE.sub("", page.read_text())):
        path, _, anchor = target.partition("#")
        if "://" not in target:
            yield (page.parent / path if path else page), anchor


def tables_not_in(page: Path, told: str) -> list[str]:
    """The paragraphs of what a command printed that are none of the page: a row more or less is another table."""
    paragraphs = {*page.read_text().split("\n\n")}
    return [table for table in told.strip().split("\n\n") if table not in paragraphs]


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def check_command(line: str) -> None:
    """Parse a command line with all options and their types as the command would, and run nothing."""
    command, arguments = cli, shlex.split(line, comments=True)[1:]
    context = click.Context(command, info_name="erase")
    while isinstance(command, click.Group):
        name, command, arguments = command.resolve_command(context, arguments)
        context = click.Context(command, info_name=name, parent=context)
    context = command.make_context(context.info_name, arguments, parent=context.parent)
    if context.info_name == "run":
        check_settings(context)
    for name in context.params.get("probes", ()):
        load_probe(name)
    if context.params.get("protocol"):
        named(context.params["protocol"])


def check_settings(context: click.Context) -> None:
    """Hold what an ``erase run`` sets to the fields of its method and of the engine, and to one another."""
    with context:
        _, options, _ = parsed(context.params["arguments"], context.params["gate"])
        asked = {"method": DEFAULT_METHOD, "preset": "default", "protocol": "none", **given_request()}
    kind = method_class(asked["method"])
    check_preset(asked["preset"], kind, asked["method"])
    settings = chosen_settings(kind.defaults, kind.paper if asked["preset"] == "paper" else {}, options)
    settings = {name: value for name, value in settings.items() if name not in OWN_OPTIONS}
    engine, own = split_options(kind, asked["method"], settings)
    from_dict(EngineConfig, engine)
    from_dict(kind, own)
    if asked["protocol"] != "none":
        named(asked["protocol"])


def run_command(line: str) -> None:
    """Run a command line in this process and hold it to the exit code that its comment names, else to 0."""
    wanted, code = re.search(r"#.*exit code (\d+)", line), 0
    try:
        main(shlex.split(line, comments=True)[1:])
    except SystemExit as left:
        code = left.code
    assert code == (int(wanted[1]) if wanted else 0), line
