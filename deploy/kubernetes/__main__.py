"""`python -m deploy.kubernetes`: render everything, and try to find something wrong with it.

Schemas say whether a cluster would take it, checkov whether it is hardened, and `proofs` whether the
numbers and names in it belong together. `make check-deploy` installs the tools and calls this.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from deploy.kubernetes import proofs
from deploy.kubernetes.rendered import Rendered, full_name

HERE = Path(__file__).parent
FOLDERS = sorted(
    path.parent for kind in ("overlays", "examples") for path in HERE.glob(f"{kind}/*/kustomization.yaml")
)
TOOLS = Path(".venv-deploy/bin")

# From the oldest that has all we use (the sleep action is stable in 1.34) to the newest with a schema.
VERSIONS = ("1.34", "1.35", "1.36", "1.37")
# Groups of operators. Their schemas come with the operators, and kubernetes-validate has none.
CUSTOM = ("postgresql.cnpg.io/", "monitoring.coreos.com/")


def main() -> int:
    """Give the exit code."""
    everything = [Rendered.from_folder(TOOLS / "kubectl", folder) for folder in FOLDERS]
    faults: list[str] = []
    for one in everything:
        found = list(proofs.faults(one))
        faults += [f"{one.name}: {fault}" for fault in found]
        if not found:
            print(*proofs.report(one), sep="\n")
    with TemporaryDirectory() as folder:
        files = [_write(one, Path(folder)) for one in everything]
        refused_by = [version for version in VERSIONS if not _valid(version, files)]
        faults += [f"Kubernetes {version} would refuse it" for version in refused_by]
        if not _hardened(Path(folder)):
            faults.append("checkov has objections")
    for fault in faults:
        sys.stderr.write(f"{fault}\n")
    return 1 if faults else 0


def _write(rendered: Rendered, folder: Path) -> Path:
    """What a plain cluster knows, in a file; and say what is left out."""
    ours = [one for one in rendered.documents if not one["apiVersion"].startswith(CUSTOM)]
    for one in rendered.documents:
        if one not in ours:
            print(f"{rendered.name}: no schema for {full_name(one)}")
    path = folder / f"{rendered.name}.yaml"
    path.write_text(yaml.safe_dump_all(ours), encoding="utf-8")
    return path


def _valid(version: str, files: Sequence[Path]) -> bool:
    """Whether a cluster would take it. The tool only warns of a kind that the version does not have."""
    command: list[str | Path] = [
        TOOLS / "kubernetes-validate",
        "--kubernetes-version",
        version,
        "--strict",
        "--quiet",
        *files,
    ]
    result = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    print(result.stdout, end="")
    return result.returncode == 0 and not result.stdout


def _hardened(folder: Path) -> bool:
    """Every check of checkov's, which knows severities only of its paying users."""
    arguments = ("--framework=kubernetes", "--compact", "--quiet", "--skip-download")
    command: list[str | Path] = [TOOLS / "checkov", "--directory", folder, *arguments]
    return subprocess.run(command, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
