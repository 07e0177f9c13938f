"""Tests the template: no secrets, every function and route, valid for CloudFormation."""

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms (`!Ref Name`) as {tag: value}."""


def _short_form(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    assert isinstance(node, yaml.ScalarNode)
    return {suffix: loader.construct_scalar(node)}


_Loader.add_multi_constructor("!", _short_form)


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load((ROOT / "template.yaml").read_text(), _Loader)
    return loaded


@pytest.fixture(scope="module")
def functions(template: dict[str, Any]) -> dict[str, Any]:
    """Properties by the file they run."""
    found = {}
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            (command,) = resource["Properties"]["ImageConfig"]["Command"]
            found[command.split(".")[1]] = resource["Properties"]
    return found


def test_cloudformation_takes_the_template() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("cfn-lint"), "--non-zero-exit-code", "informational", "template.yaml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_function_is_deployed_and_every_handler_exists(functions: dict[str, Any]) -> None:
    files = {path.stem for path in (ROOT / "functions").glob("*.py")} - {"__init__", "local", "services"}
    folders = {path.parent.name for path in (ROOT / "functions").glob("*/__init__.py")} - {"http"}
    assert set(functions) == files | folders
    for name in functions:
        assert callable(importlib.import_module(f"functions.{name}").handler)


def test_every_route_of_a_function_is_routed_to_it(functions: dict[str, Any]) -> None:
    missing = []
    for name, properties in functions.items():
        if name == "worker":
            continue
        paths = [event["Properties"]["Path"] for event in properties["Events"].values() if event["Type"] == "HttpApi"]
        patterns = [re.sub(r"\{[^}]*\+\}", ".+", path) for path in paths]
        patterns = [re.sub(r"\{[^}+]*\}", "[^/]+", pattern) for pattern in patterns]
        document = importlib.import_module(f"functions.{name}").app.openapi()
        for route in document["paths"]:
            concrete = re.sub(r"\{[^}]*\}", "x", route)
            if not any(re.fullmatch(pattern, concrete) for pattern in patterns):
                missing.append(f"{name}: {route}")
    assert not missing


def test_the_template_names_secrets_and_contains_none(template: dict[str, Any], functions: dict[str, Any]) -> None:
    from pydantic import SecretStr

    from shared.settings import Settings

    secret = {name.upper() for name, field in Settings.model_fields.items() if SecretStr in _types(field.annotation)}
    assert "FUNCTIONS_API_KEY" in secret
    variables = set(template["Globals"]["Function"]["Environment"]["Variables"])
    for properties in functions.values():
        variables |= set(properties.get("Environment", {}).get("Variables", {}))
    assert "SECRETS_ARN" in variables
    assert not variables & secret
    assert "{{resolve" not in (ROOT / "template.yaml").read_text()
    assert variables <= {name.upper() for name in Settings.model_fields}, "a variable that nothing reads"


def _types(annotation: Any) -> tuple[Any, ...]:
    return (annotation, *getattr(annotation, "__args__", ()))


def test_every_function_may_read_the_secret_and_only_some_may_invoke_the_worker(functions: dict[str, Any]) -> None:
    for name, properties in functions.items():
        allowed = {key for policy in properties["Policies"] for key in policy}
        assert "AWSSecretsManagerGetSecretValuePolicy" in allowed, name
        if "TASK_FUNCTION" in properties.get("Environment", {}).get("Variables", {}):
            allowed.remove("LambdaInvokePolicy")
        assert allowed == {"AWSSecretsManagerGetSecretValuePolicy"}, name


def test_the_worker_runs_every_half_hour_as_long_as_lambda_allows(functions: dict[str, Any]) -> None:
    worker = functions["worker"]
    assert worker["Timeout"] == 900
    assert [event["Properties"]["Schedule"] for event in worker["Events"].values()] == ["rate(30 minutes)"]
