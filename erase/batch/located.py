"""YAML whose every value knows its line, so that a refusal names file and line."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipelines.errors import MissingError, UsageError
from pipelines.text import did_you_mean


@dataclass(frozen=True)
class Located:
    """A value of a YAML file and where it stands: a scalar, a list of values or a mapping to values."""

    value: Any
    path: Path
    line: int

    @property
    def place(self) -> str:
        """File and line, as a sentence begins."""
        return f"{self.path}, line {self.line}"

    def refusal(self, sentence: str) -> UsageError:
        """An error about this value."""
        return UsageError(f"{self.place}: {sentence}")

    def plain(self) -> Any:
        """The value in plain Python types."""
        if isinstance(self.value, dict):
            return {key: each.plain() for key, each in self.value.items()}
        if isinstance(self.value, list):
            return [each.plain() for each in self.value]
        return self.value

    def mapping(self, keys: Collection[str] = (), *, what: str) -> dict[str, "Located"]:
        """The values by key (``UsageError`` for a key that is not one of ``keys``, where some are given)."""
        if not isinstance(self.value, dict):
            raise self.refusal(f"{what} is a mapping of keys to values, not {shown(self)}")
        for key, each in self.value.items():
            if keys and key not in keys:
                meant = did_you_mean(key, keys)
                raise each.refusal(f"unknown key {key!r}; {meant}the keys of {what} are {', '.join(keys)}")
        return self.value

    def entries(self) -> list["Located"]:
        """The members of a list; a value that is no list is its own only member."""
        return self.value if isinstance(self.value, list) else [self]

    def text(self, what: str) -> str:
        """A text; a number stands for its digits (``UsageError`` for anything else)."""
        if isinstance(self.value, bool) or not isinstance(self.value, (str, int, float)) or self.value == "":
            raise self.refusal(f"{what} is a text, not {shown(self)}")
        return str(self.value)

    def whole(self, what: str, *, least: int) -> int:
        """A whole number of at least ``least`` (``UsageError``)."""
        if isinstance(self.value, bool) or not isinstance(self.value, int) or self.value < least:
            raise self.refusal(f"{what} is a whole number of at least {least}, not {shown(self)}")
        return self.value

    def choice(self, what: str, choices: Collection[str]) -> str:
        """One of some words (``UsageError`` lists them)."""
        if self.value not in choices:
            raise self.refusal(f"{what} {shown(self)} is not one of {', '.join(choices)}")
        return self.value


def shown(located: Located) -> str:
    """A value as it would be typed, shortened."""
    text = repr(located.plain())
    return text if len(text) <= 60 else f"{text[:57]}..."


@contextmanager
def at(located: Located) -> Iterator[None]:
    """Errors of the block that a user can act on name the file and the line of the value that they are about."""
    try:
        yield
    except (UsageError, MissingError) as error:
        raise type(error)(f"{located.place}: {error}") from error


def read_located(path: Path) -> Located:
    """A YAML file (``MissingError`` when it is absent, ``UsageError`` when it is not YAML or a key stands twice)."""
    if not path.is_file():
        raise MissingError(f"{path} does not exist")
    loader = yaml.SafeLoader(path.read_text())
    try:
        node = loader.get_single_node()
        if node is None:
            raise UsageError(f"{path} is empty")
        return locate(node, loader, path)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{path}{line}: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: {str(error).splitlines()[0]}") from error
    finally:
        loader.dispose()


def locate(node: yaml.Node, loader: yaml.SafeLoader, path: Path) -> Located:
    """A node with its members; the line of a member of a mapping is that of its key."""
    line = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        return Located([locate(each, loader, path) for each in node.value], path, line)
    if not isinstance(node, yaml.MappingNode):
        return Located(loader.construct_object(node), path, line)
    found: dict[str, Located] = {}
    for key_node, value_node in node.value:
        key, key_line = str(loader.construct_object(key_node)), key_node.start_mark.line + 1
        if key in found:
            raise UsageError(f"{path}, line {key_line}: the key {key!r} stands twice")
        found[key] = Located(locate(value_node, loader, path).value, path, key_line)
    return Located(found, path, line)
