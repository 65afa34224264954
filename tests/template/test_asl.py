"""asl-validator accepts the state machines as Amazon States Language."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from local.stack import ROOT
from tests.sources import DEFINITIONS, MACHINES

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def validator() -> Path:
    """Return asl-validator's program; npm installs the version of the lock file."""
    npm = shutil.which("npm")
    if not npm:
        pytest.skip("asl-validator needs npm, which is not installed")
    program = HERE / "node_modules/.bin/asl-validator"
    if not program.exists():
        subprocess.run([npm, "ci", "--silent"], cwd=HERE, check=True)
    return program


def validate(validator: Path, file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([validator, "--json-path", file], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("machine", MACHINES)
def test_a_machine_is_valid(validator: Path, machine: str) -> None:
    run = validate(validator, ROOT / f"statemachine/{machine}.asl.json")
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_validator_refuses_a_transition_to_nowhere(validator: Path, tmp_path: Path) -> None:
    broken = DEFINITIONS["callback"] | {"StartAt": "Nowhere"}
    file = tmp_path / "broken.asl.json"
    file.write_text(json.dumps(broken))
    assert validate(validator, file).returncode == 1
