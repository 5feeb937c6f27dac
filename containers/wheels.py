"""The wheels an image is made of: `wheels.py lock NAME` chooses them, `wheels.py download NAME FOLDER` brings them.

With this machine's pip and its settings, for the Python and the libc of the images whatever runs here.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXTRAS = {
    "pytorch": ("torch", "learn", "report", "buckets", "tracking"),
    "tensorflow": ("tensorflow-cuda", "learn", "report", "buckets", "tracking"),
    "tensorflow-cpu": ("tensorflow", "learn", "report", "buckets", "tracking"),
}
PLATFORMS = (
    "any",
    "linux_x86_64",
    *(f"manylinux{year}_x86_64" for year in (1, 2010, 2014)),
    *(f"manylinux_2_{minor}_x86_64" for minor in range(5, 37)),  # up to the glibc of Debian 12
)
FOR_THE_IMAGE = [
    "--only-binary=:all:", "--implementation=cp", "--python-version=3.11", "--abi=cp311", "--abi=abi3", "--abi=none",
    *(f"--platform={name}" for name in PLATFORMS),
]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("lock", "download"))
    parser.add_argument("name", choices=EXTRAS)
    parser.add_argument("folder", type=Path, nargs="?", help="where the wheels go")
    given = parser.parse_args()
    lock = ROOT / "containers" / f"{given.name}.lock"
    if given.action == "lock":
        lock.write_text(locked(EXTRAS[given.name]))
    elif given.folder is None:
        parser.error("download where to?")
    else:
        download(lock, given.folder)
    return 0


def locked(extras: tuple[str, ...]) -> str:
    """The newest packages that fit together, each with the hash of the one file that goes into an image."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pip("install", "--dry-run", "--ignore-installed", f"--target={folder}", f"--report={report}", *FOR_THE_IMAGE,
            f"{ROOT}[{','.join(extras)}]")  # fmt: skip
        packages = json.loads(report.read_text())["install"]
    lines = [
        f"{item['metadata']['name'].lower()}=={item['metadata']['version']}"
        f" --hash=sha256:{item['download_info']['archive_info']['hashes']['sha256']}\n"
        for item in packages
        if item["metadata"]["name"] != "voxshard"
    ]
    return "".join(sorted(lines))


def download(lock: Path, folder: Path) -> None:
    """Bring what a lock names, unless it is there."""
    complete = folder / "complete.lock"
    if complete.exists() and complete.read_text() == lock.read_text():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pip("download", "--no-deps", "--require-hashes", f"--requirement={lock}", f"--dest={folder}", *FOR_THE_IMAGE)
    shutil.copyfile(lock, complete)


def pip(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *words], check=True)


if __name__ == "__main__":
    sys.exit(main())
