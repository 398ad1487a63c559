"""Runs as processes: workers, clusters, signals and sudden death, closed pipes and odd surroundings."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import dicom_phantoms
import numpy as np
import phantoms
import psutil
import pytest
from catalogue import fault
from runs import BUILDERS, ROOT, command, content, lines_of, make_bundle, record_of, run, scan, wait_for

from monai_sr.batch.cluster import run_on_cluster
from monai_sr.cli.main import main
from monai_sr.errors import BundleError, UsageError, collect_notices
from monai_sr.io.images import read_image, write_image
from monai_sr.options import RunOptions


def bundle_of(folder: Path, **deadly) -> Path:
    """A small bundle; it kills its process at the widths that ``deadly`` names, if any."""
    changes = {}
    if deadly:
        changes["network_def"] = {"_target_": "deadly.DeadlyNet", **deadly}
    return make_bundle(folder, "residual", changes=changes, **({} if deadly else {"features": 4, "layers": 4}))


@pytest.fixture
def scans(tmp_path) -> Path:
    """Four volumes of different widths."""
    for seed, width in enumerate((8, 9, 10, 11)):
        scan(tmp_path / "in" / f"{width}.nii.gz", seed=seed, shape=(width, 7, 6))
    scan(tmp_path / "in" / "float.nii.gz", seed=5, dtype=np.float32)
    return tmp_path / "in"


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"]


def same_voxels(one: Path, other: Path) -> None:
    """Integers equal, floats to 1e-5 of their range."""
    for path in sorted(one.rglob("*.nii.gz")):
        a, b = read_image(path), read_image(other / path.relative_to(one))
        limit = 0 if a.meta["stored_dtype"] == "int16" else 1e-5 * float(a.max() - a.min())
        assert float((a - b).abs().max()) <= limit


# ------------------------------------------------------------- workers


@fault("R04")
def test_workers_make_what_one_process_makes_and_a_death_costs_no_other_volume(scans, tmp_path):
    mark = tmp_path / "died"
    bundle = bundle_of(tmp_path / "bundle", always=10, once=9, mark=str(mark))
    options = RunOptions.from_dict({"bundle": str(bundle), "device": "cpu", "trust_bundle": True})
    scan(scans / "isotropic.nii.gz", spacing=(1.0, 1.0, 1.0))
    (scans / "float.nii.gz").rename(scans / os.fsdecode(b"m\xe9.nii.gz"))  # no UTF-8
    with collect_notices() as notices:
        outcomes = run(scans, tmp_path / "jobs", options, jobs=2)
    died = outcomes.pop("10.nii.gz")
    assert (died.status, died.code) == ("failed", "E-WORKER") and "killed by signal 9, 2 times" in died.reason
    assert mark.exists()
    assert {o.status for o in outcomes.values()} == {"done"}
    assert not notices  # warnings are with their cases, whole
    (notice,) = outcomes["isotropic.nii.gz"].warnings
    assert (notice.code, notice.severity, notice.path) == ("W-SR-NOGAIN", "warning", "isotropic.nii.gz")
    assert len(lines_of(tmp_path / "jobs")) == 6
    assert not leftovers(tmp_path / "jobs")
    (scans / "10.nii.gz").unlink()
    alone = run(scans, tmp_path / "alone", options)
    assert {o.status for o in alone.values()} == {"done"}
    assert {name: o.warnings for name, o in alone.items()} == {name: o.warnings for name, o in outcomes.items()}
    same_voxels(tmp_path / "jobs", tmp_path / "alone")
    assert content(tmp_path / "jobs") == content(tmp_path / "alone")


def test_a_bundle_that_no_worker_can_load_ends_the_run(scans, tmp_path):
    options = RunOptions.from_dict(
        {"bundle": str(bundle_of(tmp_path / "bundle")), "device": "cpu", "trust_bundle": True}
    )
    (tmp_path / "bundle" / "residual_super_resolution" / "models" / "model.pt").unlink()
    with pytest.raises(BundleError, match="E-W-MISSING"):
        run(scans, tmp_path / "out", options, jobs=2, memory=2**33)


# ------------------------------------------------------------- a cluster


@pytest.fixture
def cluster():
    """Two worker processes of Dask, with one GPU each as far as the scheduler knows."""
    distributed = pytest.importorskip("dask.distributed")
    environment = {"PYTHONPATH": f"{ROOT}{os.pathsep}{BUILDERS}", "OMP_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, resources={"GPU": 1}, memory_limit=0
    ) as cluster:
        yield cluster
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.mark.slow
def test_a_cluster_makes_what_one_process_makes_though_a_worker_is_killed(scans, tmp_path, cluster, capsys):
    once = tmp_path / "died"
    bundle = bundle_of(tmp_path / "bundle", always=0, once=9, mark=str(once))
    options = ["--bundle", str(bundle), "--trust-bundle", "--scheduler", cluster.scheduler_address, "--gpu-resource"]
    assert main(["run", str(scans), str(tmp_path / "out"), *options]) == 0
    assert once.exists()
    assert "done         5" in capsys.readouterr().out
    assert len(lines_of(tmp_path / "out")) == 5 and not leftovers(tmp_path / "out")
    run(scans, tmp_path / "alone", RunOptions.from_dict({"bundle": str(bundle), "device": "cpu", "trust_bundle": True}))
    same_voxels(tmp_path / "out", tmp_path / "alone")
    assert main(["run", str(scans), str(tmp_path / "out"), *options]) == 0
    assert "skipped      5  already done" in capsys.readouterr().out


@pytest.mark.slow
def test_a_volume_that_kills_workers_fails_on_a_cluster_and_dicom_goes_through(tmp_path, cluster):
    scan(tmp_path / "in" / "8.nii.gz"), scan(tmp_path / "in" / "10.nii.gz", shape=(10, 7, 6))
    dicom_phantoms.write(tmp_path / "in" / "export", dicom_phantoms.slices())
    bundle = bundle_of(tmp_path / "bundle", always=10, once=0, mark=str(tmp_path / "died"))
    options = RunOptions.from_dict({"bundle": str(bundle), "device": "cpu", "trust_bundle": True})
    outcomes = run(tmp_path / "in", tmp_path / "out", options, scheduler=cluster.scheduler_address)
    died = outcomes.pop("10.nii.gz")
    assert (died.status, died.code) == ("failed", "E-WORKER")
    assert {o.status for o in outcomes.values()} == {"done"}


def test_a_scheduler_that_is_not_there_is_named(scans, tmp_path, monkeypatch):
    monkeypatch.setattr("monai_sr.batch.cluster.PATIENCE", "1s")
    for scheduler in ("tcp://127.0.0.1:9", str(tmp_path / "scheduler.json")):
        with pytest.raises(UsageError, match="E-SCHED"):
            run(scans, tmp_path / "out", RunOptions.from_dict({"bundle": "none"}), scheduler=scheduler)


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask.distributed", None)
    with pytest.raises(UsageError, match=r"E-EXTRA: .*monai-sr\[cluster\]"):
        next(run_on_cluster([], RunOptions(), scheduler="tcp://x"))


# ------------------------------------------------------------- signals and sudden death


@fault("R08")
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("number", "code", "jobs"), [pytest.param(signal.SIGTERM, 143, 2, marks=pytest.mark.slow), (signal.SIGINT, 130, 1)]
)
def test_a_signal_ends_a_run_within_seconds_and_leaves_no_partial_file(tmp_path, number, code, jobs):
    count = 200  # more than are done before the signal, on any machine
    (tmp_path / "in").mkdir()  # a body, because white noise gives warnings of stripes
    first = write_image(phantoms.body((60, 60, 12), (1.0, 1.0, 4.0)), tmp_path / "in" / "0.nii.gz", dtype=np.int16)
    for name in range(1, count):
        os.link(first, tmp_path / "in" / f"{name}.nii.gz")
    process = command("run", tmp_path / "in", tmp_path / "out", "--bundle", "none", "--jobs", jobs)
    wait_for(lambda: list((tmp_path / "out").glob("*.json")), process)
    before = cpu_seconds(process)
    process.send_signal(number)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # it is no longer a child that could be waited for
    err = process.communicate()[1]
    # its own time, because a busy machine may give it little
    assert used.ru_utime + used.ru_stime - before < 5
    assert process.returncode == code, err
    assert err in ("monai-sr: interrupted\n", "monai-sr: terminated\n")
    assert not leftovers(tmp_path / "out")
    results = sorted((tmp_path / "out").glob("*.nii.gz"))
    assert 0 < len(results) < count
    for path in results:
        assert record_of(path.with_name(path.name.replace(".nii.gz", ".json")))["output_sha256"]
        read_image(path)


def cpu_seconds(process: subprocess.Popen) -> float:
    """Used by a process and those it started."""
    first = psutil.Process(process.pid)
    return sum(sum(one.cpu_times()[:2]) for one in (first, *first.children(recursive=True)))


@fault("R07")
@pytest.mark.slow
@pytest.mark.timeout(0)
def test_kills_at_random_instants_lose_nothing(tmp_path):
    """MONAI_SR_KILLS=100 for as many kills; each needs the seconds that torch takes to load."""
    kills, chance = int(os.environ.get("MONAI_SR_KILLS", "10")), random.Random(0)
    kinds = (".nii.gz", ".nii", ".nrrd", ".mha")
    for name in range(20):
        scan(tmp_path / "in" / f"{name:02}{kinds[name % 4]}", shape=(60, 50, 12), seed=name)

    def start(target: Path) -> subprocess.Popen:
        """A run, once it has dealt with a volume."""
        log = target / "monai-sr-run.jsonl"
        before = log.stat().st_size if log.exists() else 0
        process = command("run", tmp_path / "in", target, "--bundle", "none", stdout=subprocess.DEVNULL)
        while process.poll() is None and not (log.exists() and log.stat().st_size > before):
            time.sleep(0.005)
        return process

    undisturbed = start(tmp_path / "whole")
    begun = time.monotonic()
    assert undisturbed.wait() == 0
    span, done, finished = time.monotonic() - begun, 0, 0
    while done < kills:
        target = tmp_path / f"out{finished}"
        process = start(target)
        try:
            # in the mean a fifth of the work, so that a whole run takes several kills
            process.wait(chance.uniform(0, 0.4 * span))
        except subprocess.TimeoutExpired:
            process.kill()
            done += 1
        if process.wait() != 0 and done < kills:
            continue
        assert start(target).wait() == 0
        finished += 1
        assert content(target) == content(tmp_path / "whole")
        assert not leftovers(target)
    print(f"{done} kills, {finished} runs brought to their end")


@fault("R10")
@pytest.mark.slow
def test_two_runs_into_one_folder_share_the_work(tmp_path):
    for name in range(30):
        scan(tmp_path / "in" / f"{name:02}.nii.gz", shape=(60, 50, 12), seed=name)
    assert command("run", tmp_path / "in", tmp_path / "alone", "--bundle", "none").wait() == 0
    both = [command("run", tmp_path / "in", tmp_path / "out", "--bundle", "none") for _ in range(2)]
    assert [process.communicate()[1] for process in both] == ["", ""]
    assert [process.returncode for process in both] == [0, 0]
    assert content(tmp_path / "out") == content(tmp_path / "alone") and not leftovers(tmp_path / "out")
    assert [line["status"] for line in lines_of(tmp_path / "out")].count("done") == 30


@fault("R07")
@pytest.mark.slow
def test_a_killed_run_takes_its_workers_along(tmp_path):
    for name in range(40):
        scan(tmp_path / "in" / f"{name:02}.nii.gz", shape=(40, 40, 12), seed=name)
    process = command("run", tmp_path / "in", tmp_path / "out", "--bundle", "residual", "--jobs", 2)
    wait_for(lambda: list((tmp_path / "out").glob("*.json")), process)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, living = psutil.wait_procs(children, timeout=10)
    assert not living


# ------------------------------------------------------------- surroundings


@fault("R15")
@fault("R17")
@fault("R18")
def test_a_run_needs_neither_home_nor_terminal_nor_anyone_who_listens(tmp_path):
    names = ["-leading dash.nii.gz", "Zürich 肺 🫁.nii.gz", f"{'long' * 60}.nii.gz"]
    for seed, name in enumerate(names):
        scan(tmp_path / "in" / "sub dir" / name, seed=seed)
    reader, writer = os.pipe()
    os.close(reader)  # as after `| head`
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.defpath, "LC_ALL": "C", "OMP_NUM_THREADS": "1"}
    options = {"env": environment, "stdout": writer, "stdin": subprocess.DEVNULL, "cwd": tmp_path}
    process = command("run", "in", "out", "--bundle", "none", **options)
    os.close(writer)
    _, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert sorted(content(tmp_path / "out")) == sorted(f"sub dir/{name}" for name in names)
    assert not leftovers(tmp_path / "out")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 kB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@fault("R05")
def test_a_disk_that_fills_up_ends_the_run_with_exit_code_6(tmp_path, small_disk, capsys):
    for name in range(8):
        scan(tmp_path / "in" / f"{name}.nii.gz", shape=(40, 40, 12), seed=name)  # results of about 150 kB
    assert main(["run", str(tmp_path / "in"), str(small_disk / "out"), "--bundle", "none"]) == 6
    shown = capsys.readouterr()
    assert "E-OUT-SPACE" in shown.err and shown.err.count("\n") == 1
    assert "the run ended before" in shown.out
    assert 0 < len(content(small_disk / "out")) < 8 and not leftovers(small_disk / "out")
    for path in (small_disk / "out").glob("*.nii.gz"):
        read_image(path)


@fault("R06")
def test_a_read_only_folder_is_refused_before_any_work(tmp_path, small_disk, capsys):
    scan(tmp_path / "in" / "a.nii.gz")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for target in (small_disk, small_disk / "out"):
        assert main(["run", str(tmp_path / "in"), str(target), "--bundle", "nobody"]) == 6
        assert "E-OUT-PERM" in capsys.readouterr().err


@fault("P01")
def test_no_text_of_a_header_is_written_anywhere_but_into_derived_dicom(tmp_path, capsys):
    dicom_phantoms.write(tmp_path / "in" / "a", dicom_phantoms.slices(series=1))
    gap = dicom_phantoms.Stack(offsets=tuple(o for i, o in enumerate(dicom_phantoms.even(9, 4.0)) if i != 4))
    dicom_phantoms.write(tmp_path / "in" / "b", dicom_phantoms.slices(gap, series=2))
    for form in ("nifti", "dicom"):
        options = ["--bundle", "none", "--format", form, "--debug"]
        assert main(["run", str(tmp_path / "in"), str(tmp_path / form), *options]) == 4
        assert main(["run", str(tmp_path / "in"), str(tmp_path / form), *options, "--dry-run"]) == 4
    texts = [p.read_text() for p in tmp_path.glob("*/*") if p.suffix in (".json", ".jsonl", ".tsv")]
    names = [str(p.relative_to(tmp_path)) for form in ("nifti", "dicom") for p in (tmp_path / form).rglob("*")]
    assert len(texts) == 6
    assert dicom_phantoms.tells_nothing(*texts, *names, *capsys.readouterr())


def test_parts_keep_logs_of_their_own(scans, tmp_path):
    for part in range(2):
        options = ["--num-parts", "2", "--part-id", str(part), "--bundle", "none"]
        assert main(["run", str(scans), str(tmp_path / "out"), *options]) == 0
    logs = [lines_of(tmp_path / "out", f"monai-sr-run.part-{part}-of-2.jsonl") for part in range(2)]
    assert sorted(line["case"] for log in logs for line in log) == sorted(p.name for p in scans.iterdir())
    assert len(content(tmp_path / "out")) == 5


@pytest.mark.parametrize(
    "options",
    [["--num-parts", "2"], ["--part-id", "0"], ["--jobs", "2", "--scheduler", "tcp://x"], ["--gpu-resource"]],
)
def test_options_that_do_not_go_together_are_refused(scans, tmp_path, options, capsys):
    assert main(["run", str(scans), str(tmp_path / "out"), *options]) == 2
    assert "E-USE" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--jobs", "2"], ["--include", "*"], ["--part-id", "0", "--num-parts", "2"]])
def test_options_for_many_volumes_mean_the_same_for_one(scans, tmp_path, options):
    assert main(["run", str(scans / "8.nii.gz"), str(tmp_path / "one.nii.gz"), "--bundle", "none", *options]) == 0
    assert main(["run", str(scans / "8.nii.gz"), str(tmp_path / "out"), "--bundle", "none"]) == 2  # names no folder
    assert main(["run", str(scans / "8.nii.gz"), f"{tmp_path}/out/", "--bundle", "none"]) == 0
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "out" / "8.nii.gz").read_bytes()


@pytest.mark.parametrize("target", ["one.nii.gz", "out/"])
def test_one_volume_is_planned_like_many(scans, tmp_path, target, capsys):
    words = ["run", str(scans / "8.nii.gz"), f"{tmp_path}/{target}", "--bundle", "none", "--dry-run"]
    assert main(words) == 0
    assert "1 of 1 volumes" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_a_part_without_a_volume_has_nothing_to_do(scans, tmp_path):
    words = ["run", str(scans / "8.nii.gz"), str(tmp_path / "one.nii.gz"), "--num-parts", "2", "--part-id", "1"]
    assert main(words) == 0
    assert not (tmp_path / "one.nii.gz").exists()
