"""Builds what `make deploy` deploys and the local stack runs: `python -m package`.

All functions share one zip. `sam build` collects it; here it loses what no function uses, and gets bytecode: SAM leaves
that out, and each cold start would compile everything, which takes longer than all else that it does.
"""

import compileall
import gzip
import json
import os
import py_compile
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from samcli.yamlhelper import yaml_dump, yaml_parse

ROOT = Path(__file__).parent
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
BUILD_DIR = ROOT / ".aws-sam/build"
# Where Lambda unpacks the zip; a traceback names its files by it.
LAMBDA_DIR = "/var/task"
ZIP = "functions.zip"
# A zip's date changes its digest, by which SAM and Lambda know that nothing has changed.
LONG_AGO = (1980, 1, 1, 0, 0, 0)

# The calls that the functions make. botocore reads the model of a service when it makes a client, and all of it.
OPERATIONS = {
    "dynamodb": ("BatchGetItem", "DeleteItem", "GetItem", "PutItem", "Query", "Scan", "UpdateItem"),
    "lambda": ("Invoke",),
    "secretsmanager": ("GetSecretValue",),
    "ses": ("SendEmail",),
    "sqs": ("DeleteMessageBatch", "ReceiveMessage"),
}
# What else botocore reads to make a client.
SHARED_DATA = ("_retry", "endpoints", "partitions", "sdk-default-configuration")
# Read by nothing at run time, or only by what is not used: other transports, files of time zones, integrations.
UNUSED = [
    *("bin", "*.dist-info", "botocore/cacert.pem", "dateutil/zoneinfo", "sentry_sdk/integrations/*"),
    *(f"aws_lambda_powertools/{part}" for part in ("event_handler", "utilities/data_classes", "utilities/parser")),
]
# The SDK imports these itself.
USED_INTEGRATIONS = {"__init__.py", "dedupe.py"}

type Sam = Callable[..., object]


class BuildError(RuntimeError):
    """The package cannot be built; the message says why."""


def main() -> int:
    try:
        build(BUILD_DIR, _sam)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def build(directory: Path, sam: Sam) -> None:
    """Make a template and the functions' zip in the folder, ready for `sam deploy`. `sam` runs a command of SAM CLI.

    Raises BuildError.
    """
    template = yaml_parse((ROOT / "template.yaml").read_text())
    _require_python_of(template["Globals"]["Function"]["Runtime"])
    functions = [name for name, each in template["Resources"].items() if each["Type"] == "AWS::Serverless::Function"]
    # One is enough: they share their code, and SAM would build a copy for each.
    sam("build", functions[0], "--build-dir", str(directory))
    folder = directory / functions[0]
    remove_unused(folder)
    add_bytecode(folder)
    write_zip(folder, directory / ZIP)
    shutil.rmtree(folder)
    built = yaml_parse((directory / "template.yaml").read_text())
    for name in functions:
        built["Resources"][name]["Properties"]["CodeUri"] = ZIP
    (directory / "template.yaml").write_text(yaml_dump(built))


def remove_unused(folder: Path) -> None:
    """Remove from the functions' code and libraries what no function uses."""
    for pattern in UNUSED:
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in USED_INTEGRATIONS:
                path.unlink()
    data = folder / "botocore/data"
    kept = dict(_used_data(data))
    shutil.rmtree(data)
    for name, text in kept.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text(text)


def add_bytecode(folder: Path) -> None:
    """Add to each module its bytecode, which Python uses without a look at the source. Raises BuildError."""
    is_compiled = compileall.compile_dir(
        folder,
        quiet=1,
        stripdir=str(folder),
        prependdir=LAMBDA_DIR,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    if not is_compiled:
        raise BuildError("A module cannot be compiled.")


def _require_python_of(runtime: str) -> None:
    """Require the Python whose bytecode the runtime reads."""
    if runtime != PYTHON:
        raise BuildError(f"The functions run on {runtime}, which cannot read the bytecode of {PYTHON}: use {runtime}.")


def _used_data(data: Path) -> Iterator[tuple[str, str]]:
    """Yield what botocore needs to make the functions' calls: files by their paths, as JSON."""
    for name in SHARED_DATA:
        content = _read(data / name)
        if name == "endpoints":
            for partition in content["partitions"]:
                partition["services"] = {key: partition["services"].get(key, {}) for key in OPERATIONS}
        yield f"{name}.json", json.dumps(content)
    for service, operations in OPERATIONS.items():
        # botocore takes the latest version.
        version = max(path.parent for path in (data / service).glob("*/service-2.json*"))
        model = _read(version / "service-2")
        model["operations"] = {name: model["operations"][name] for name in operations}
        used = set(_shapes_of(model["operations"], model["shapes"]))
        model["shapes"] = {name: _without_documentation(model["shapes"][name]) for name in sorted(used)}
        model["operations"] = _without_documentation(model["operations"])
        folder = f"{service}/{version.name}"
        yield f"{folder}/service-2.json", json.dumps(model)
        yield f"{folder}/endpoint-rule-set-1.json", json.dumps(_read(version / "endpoint-rule-set-1"))


def _read(file: Path) -> Any:
    """Read a file of botocore's data, which may be compressed."""
    plain = file.with_name(f"{file.name}.json")
    return json.loads(plain.read_text() if plain.exists() else gzip.decompress(Path(f"{plain}.gz").read_bytes()))


def _shapes_of(part: Any, shapes: dict[str, Any]) -> Iterator[str]:
    """Yield the names of all shapes that a part of a model refers to, and those that they refer to."""
    found: set[str] = set()
    waiting = [part]
    while waiting:
        match waiting.pop():
            case {"shape": str(name), **rest}:
                if name not in found:
                    found.add(name)
                    waiting.append(shapes[name])
                waiting.extend(rest.values())
            case dict(members):
                waiting.extend(members.values())
            case list(members):
                waiting.extend(members)
    yield from found


def _without_documentation(part: Any) -> Any:
    if isinstance(part, dict):
        is_text = isinstance(part.get("documentation"), str)
        return {k: _without_documentation(v) for k, v in part.items() if not (is_text and k == "documentation")}
    return [_without_documentation(member) for member in part] if isinstance(part, list) else part


def write_zip(folder: Path, file: Path) -> None:
    """Write a folder's files into a zip that is the same whenever they are."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(str(path.relative_to(folder)), LONG_AGO)
            entry.compress_type = zipfile.ZIP_DEFLATED
            # Lambda runs the functions as another user.
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes())


def _sam(*arguments: str) -> None:
    command = [str(Path(sys.executable).with_name("sam")), *arguments]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "SAM_CLI_TELEMETRY": "0",
    }
    if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
        raise BuildError("sam build failed.")


if __name__ == "__main__":
    sys.exit(main())
