"""The folders that are measured: both designs with their libraries and their bytecode, as they are deployed."""

import compileall
import hashlib
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from py_compile import PycInvalidationMode

import package
from local.stack import ROOT

WORK = ROOT / ".aws-sam/bench"
BASELINE = ROOT / "bench/baseline"
MEBIBYTE = 1024 * 1024


def build_ours() -> Path:
    """Return a copy of functions/ with its libraries and bytecode, without what package.py leaves out."""
    return _build("ours", ROOT / "functions")


def build_baseline() -> Path:
    return _build("baseline", BASELINE)


def build_runtime_client() -> Path:
    """Return the folder of AWS's runtime client, which Lambda's own image has with bytecode."""
    return _build("runtime-client", ROOT / "bench", "requirements.txt")


def code_of(artefact: Path, function: str) -> Path:
    """Return a function's folder: its own, as `sam build` makes it, or the one of all functions."""
    own = artefact / function
    return own if own.is_dir() else artefact


@cache
def size_of(code: Path) -> dict[str, float]:
    """Return the mebibytes of a folder, unpacked and as a zip."""
    files = [file for file in code.rglob("*") if file.is_file()]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.relative_to(code))
    unpacked = sum(file.stat().st_size for file in files)
    return {"unpacked": unpacked / MEBIBYTE, "zip": buffer.tell() / MEBIBYTE}


def _build(name: str, source: Path, *only: str) -> Path:
    """Build a folder once for each state of its sources."""
    sources = [source / file for file in only] or sorted(
        path for path in source.rglob("*") if path.is_file() and path.suffix != ".pyc"
    )
    digest = hashlib.sha256((ROOT / "package.py").read_bytes())
    for file in sources:
        digest.update(f"{file.relative_to(source)}\0".encode() + file.read_bytes())
    built = WORK / f"{name}-{digest.hexdigest()[:12]}"
    if built.exists():
        return built
    for old in WORK.glob(f"{name}-*"):
        shutil.rmtree(old, ignore_errors=True)
    WORK.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix="building-", dir=WORK))
    for file in sources:
        target = building / file.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        shutil.copy(file, target)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    run = subprocess.run(
        [*pip, "--target", building, "-r", source / "requirements.txt"], capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise RuntimeError(f"pip failed:\n{run.stderr}")
    if source == ROOT / "functions":
        package.remove_unused(building)
    compileall.compile_dir(building, quiet=2, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
    # Another bench may have been faster.
    with suppress(OSError):
        building.rename(built)
    return built
