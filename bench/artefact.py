"""The folders that are measured: both designs with their libraries and their bytecode.

Ours is as it is deployed. The one Lambda is better than it was: a zip with bytecode instead of a Docker image.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import package
from local.stack import ROOT

WORK = ROOT / ".aws-sam/bench"
BASELINE = ROOT / "bench/baseline"
MEGABYTE = 1_000_000


def build_ours() -> Path:
    """Return a copy of functions/ with its libraries and bytecode, without what package.py leaves out."""
    return _build("ours", ROOT / "functions")


def build_baseline() -> Path:
    return _build("baseline", BASELINE)


def build_runtime_client() -> Path:
    """Return the folder of AWS's runtime client, which Lambda's own image has with bytecode."""
    return _build("runtime-client", ROOT / "bench", "requirements.txt")


def unpack(build: Path) -> Path:
    """Return a folder with the content of the functions' zip, which `make build` leaves in the folder `build`."""
    file = build / package.ZIP

    def make(folder: Path) -> None:
        with zipfile.ZipFile(file) as archive:
            archive.extractall(folder)

    return _make("unpacked", hashlib.sha256(file.read_bytes()).hexdigest(), make)


@cache
def zip_of(code: Path) -> bytes:
    """Return a folder as the zip that is deployed."""
    with tempfile.TemporaryDirectory(prefix="payment3-bench-") as folder:
        file = Path(folder, package.ZIP)
        package.write_zip(code, file)
        return file.read_bytes()


def size_of(code: Path) -> dict[str, float]:
    """Return the megabytes of a folder, unpacked and as a zip."""
    unpacked = sum(file.stat().st_size for file in code.rglob("*") if file.is_file())
    return {"unpacked": unpacked / MEGABYTE, "zip": len(zip_of(code)) / MEGABYTE}


def _build(name: str, source: Path, *only: str) -> Path:
    """Build a folder once for each state of its sources."""
    sources = [source / file for file in only] or sorted(
        path for path in source.rglob("*") if path.is_file() and path.suffix != ".pyc"
    )
    digest = hashlib.sha256()
    for builder in (Path(package.__file__), Path(__file__)):
        digest.update(builder.read_bytes())
    for file in sources:
        digest.update(f"{file.relative_to(source)}\0".encode() + file.read_bytes())

    def make(folder: Path) -> None:
        for file in sources:
            target = folder / file.relative_to(source)
            target.parent.mkdir(exist_ok=True)
            shutil.copy(file, target)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        run = subprocess.run(
            [*pip, "--target", folder, "-r", source / "requirements.txt"], capture_output=True, text=True, check=False
        )
        if run.returncode:
            raise RuntimeError(f"pip failed:\n{run.stderr}")
        if source == ROOT / "functions":
            package.remove_unused(folder)
        package.add_bytecode(folder)

    return _make(name, digest.hexdigest(), make)


def _make(name: str, digest: str, make: Callable[[Path], None]) -> Path:
    """Return the folder of this name and digest, and make it if it does not exist; others of the name are removed."""
    made = WORK / f"{name}-{digest[:12]}"
    if made.exists():
        return made
    for old in WORK.glob(f"{name}-*"):
        shutil.rmtree(old, ignore_errors=True)
    WORK.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix="building-", dir=WORK))
    make(making)
    # Another bench may have been faster.
    with suppress(OSError):
        making.rename(made)
    return made
