"""Build the sdist and the wheel, look into them, and use the wheel where there is no checkout: `make release-check`."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
BUNDLES = ("pyramid", "residual")
NEEDED = {
    *(
        f"monai_sr/_bundles/{bundle}_super_resolution/{name}"
        for bundle in BUNDLES
        for name in (
            *("LICENSE", "README.md", "docs/README.md", "docs/data_license.txt"),
            *("configs/inference.json", "configs/metadata.json", "configs/calibration.json"),
            *("models/model.pt", "models/model.ts", "models/int8.json", "models/self_test.json"),
        )
    ),
    *(
        f"monai_sr/_bundles/residual_super_resolution/docs/example/{name}"
        for name in ("LICENSE", "example.json", "thick.nii.gz", "truth.nii.gz")
    ),
    *(f"monai_sr/{name}" for name in ("py.typed", "codes.tsv", "README.md", "ARCHITECTURE.md")),
    *(f"monai_sr/{name}" for name in ("batch/record.schema.json", "batch/record.md", "cli/answer.schema.json")),
    *(f"monai_sr/{name}" for name in ("dicom/README.md", "trust/README.md", "fusion/README.md")),
    *(f"monai_sr/report/{name}" for name in ("case.html", "index.html", "viewer.html", "report.css", "report.js")),
    *(f"monai_sr/clients/{name}" for name in ("slicer/extension/README.md", "workflows/README.md", "pacs/README.md")),
}
FORBIDDEN = ("tests", "data_scripts", "runs", "eval", "__pycache__", ".venv")


def main() -> None:
    """Run every step; end with the first that fails."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    pins = ROOT / "constraints.txt"
    environment |= {"PIP_CONSTRAINT": str(pins), "PIP_BUILD_CONSTRAINT": str(pins), "PYTHONUTF8": "1"}
    dist = ROOT / "dist"
    for old in (*dist.glob("monai_sr-*.tar.gz"), *dist.glob("monai_sr-*.whl")):
        old.unlink()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        builder = _make_environment(work / "builder")
        _run(environment, builder, "-m", "pip", "install", "--quiet", "hatchling", cwd=work)
        _run(environment, builder, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(dist), cwd=ROOT)
        (sdist,) = dist.glob("monai_sr-*.tar.gz")
        # from the sdist, so that the sdist is known to be complete
        pip_wheel = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(dist))
        _run(environment, builder, *pip_wheel, str(sdist), cwd=work)
        (wheel,) = dist.glob("monai_sr-*.whl")
        check_contents(sdist, wheel)

        user = _make_environment(work / "user")
        _run(environment, user, "-m", "pip", "install", "--quiet", f"{wheel}[cpu]", cwd=work)
        compare_use(user, work, environment)
    print(f"release-check: {sdist.name} and {wheel.name} are good")


def check_contents(sdist: Path, wheel: Path) -> None:
    """What has to be in the wheel is there, and what has not is in neither."""
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    licenses = {f"{wheel.name.rsplit('-', 3)[0]}.dist-info/licenses/LICENSE"}
    missing = sorted((NEEDED | licenses) - in_wheel) + sorted({"LICENSE", "README.md", "pyproject.toml"} - in_sdist)
    extra = sorted(name for name in in_wheel | in_sdist if set(FORBIDDEN) & set(name.split("/")))
    if missing or extra:
        sys.exit(f"release-check: missing {missing}, not to be published {extra}")
    print(f"contents: wheel {wheel.stat().st_size / 1e6:.1f} MB, {len(in_wheel)} files; sdist {len(in_sdist)} files")


def compare_use(user: Path, work: Path, environment: dict[str, str]) -> None:
    """The demo and the bundles make the same voxels from the wheel, in a folder elsewhere, as from the checkout."""
    elsewhere = work / "elsewhere"
    elsewhere.mkdir()
    checkout = environment | {"PYTHONPATH": str(ROOT)}
    print(_run(environment, user, "-m", "monai_sr", "doctor", cwd=elsewhere))
    for python, variables, name in ((user, environment, "wheel"), (Path(sys.executable), checkout, "checkout")):
        _run(variables, python, "-m", "monai_sr", "demo", "--output", f"{name}/demo", cwd=elsewhere)
        paths = {}
        for bundle in BUNDLES:
            folder = _run(variables, python, "-m", "monai_sr", "info", "--bundle-path", bundle, cwd=elsewhere)
            paths[bundle] = Path(folder.strip())
        if any(path.is_relative_to(ROOT) != (name == "checkout") for path in paths.values()):
            sys.exit(f"release-check: the bundles of the {name} are {paths}")
        for bundle, path in paths.items():
            options = {
                "--config_file": path / "configs" / "inference.json",
                "--dataset_dir": paths["residual"] / "docs" / "example" / "thick.nii.gz",
                "--output_dir": f"{name}/{bundle}",
                "--factor": 4,
            }
            words = [str(word) for pair in options.items() for word in pair]
            _run(variables, python, "-m", "monai.bundle", "run", *words, cwd=elsewhere)
    expected = {path.relative_to(elsewhere / "checkout"): path for path in (elsewhere / "checkout").rglob("*.nii.gz")}
    if not {"demo", *BUNDLES} <= {path.parts[0] for path in expected}:
        sys.exit(f"release-check: too few volumes ({sorted(map(str, expected))})")
    for relative, path in sorted(expected.items()):
        ours, theirs = nib.load(elsewhere / "wheel" / relative), nib.load(path)
        if not np.array_equal(ours.affine, theirs.affine) or not np.array_equal(ours.dataobj, theirs.dataobj):
            sys.exit(f"release-check: {relative} of the wheel differs from the checkout's")
        print(f"same voxels: {relative}")


def _make_environment(folder: Path) -> Path:
    """Its python."""
    venv.create(folder, with_pip=True)
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _run(environment: dict[str, str], python: Path, *words: str, cwd: Path) -> str:
    done = subprocess.run([python, *words], cwd=cwd, env=environment, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        sys.exit(f"release-check: {' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
