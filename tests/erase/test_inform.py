"""What ``erase methods NAME`` says of a method."""

import pytest
from click.testing import CliRunner

from erase.cli.inform import methods
from erase.config import EngineConfig
from erase.fields import flag
from erase.method import method_class, method_names


@pytest.mark.parametrize("name", method_names())
def test_engine_defaults_that_a_method_changes_stand_among_its_options(name):
    shown = CliRunner().invoke(methods, [name]).output
    changed = method_class(name).defaults
    for setting, value in changed.items():
        (line,) = (line for line in shown.splitlines() if line.startswith(f"{flag(setting)} "))
        assert str(value) in line.split()[1]
        assert line.endswith(f"the engine's own default is {getattr(EngineConfig(), setting)}")
    assert shown.count("the engine's own default is") == len(changed)
