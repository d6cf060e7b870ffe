"""What ``erase methods NAME`` says of a method, and ``erase doctor --memory`` of a model."""

import json

import pytest
from click.testing import CliRunner

from erase.cli.inform import doctor, methods
from erase.cli.options import DEFAULT_MODEL
from erase.config import EngineConfig
from erase.fields import flag
from erase.memory_table import state_table
from erase.method import method_class, method_names
from pipelines.errors import UsageError
from pipelines.model_source import transformer_config


@pytest.mark.parametrize("name", method_names())
def test_engine_defaults_that_a_method_changes_stand_among_its_options(name):
    shown = CliRunner().invoke(methods, [name]).output
    changed = method_class(name).defaults
    for setting, value in changed.items():
        (line,) = (line for line in shown.splitlines() if line.startswith(f"{flag(setting)} "))
        assert str(value) in line.split()[1]
        assert line.endswith(f"the engine's own default is {getattr(EngineConfig(), setting)}")
    assert shown.count("the engine's own default is") == len(changed)


def test_the_table_is_printed_from_a_configuration_alone():
    found = CliRunner().invoke(doctor, ["--memory"])
    assert found.exit_code == 0 and "13.2 GB" in found.output and "facebook/DiT-XL-2-256" in found.output
    rows = json.loads(CliRunner().invoke(doctor, ["--memory", "--json"]).output)["bytes"]
    assert [row["total"] for row in rows] == [row.total for row in state_table(transformer_config(DEFAULT_MODEL))]
    small = json.loads(CliRunner().invoke(doctor, ["--memory", "--model", "digits", "--json"]).output)
    assert small["bytes"][0]["weights"] < 10**7
    refused = CliRunner().invoke(doctor, ["--model", "digits"]).exception
    assert isinstance(refused, UsageError) and "--model digits has no effect without --memory" in str(refused)
