from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from models import cross, write_encoder, write_model

import rerank_engine as rr
from rerank_engine import cpus
from rerank_engine.errors import InputError

MISSING = Path("no") / "such" / "file"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def tree(root: Path, files: dict[str, str], membership: str) -> float | None:
    """The quota that a tree of control groups gives to a process of that membership."""
    for path, content in files.items():
        (root / "cgroup" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "cgroup" / path).write_text(content)
    (root / "membership").write_text(membership)
    return cpus.cgroup_quota(root / "cgroup", root / "membership")


@pytest.mark.parametrize(
    ("content", "quota"),
    [
        ("150000 100000\n", 1.5),
        ("50000 100000\n", 0.5),
        ("400000 200000", 2.0),
        ("max 100000\n", None),
        ("max", None),
        ("0 100000", None),
        ("-1 100000", None),
        ("100000 0", None),
        ("", None),
        ("some text here\n", None),
    ],
)
@pytest.mark.parametrize("group", ["", "user.slice/app"])
def test_version_2(tmp_path, content, quota, group):
    assert tree(tmp_path, {f"{group}/cpu.max".lstrip("/"): content}, f"0::/{group}\n") == quota


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"a/cpu.max": "300000 100000", "a/b/cpu.max": "200000 100000", "a/b/c/cpu.max": "400000 100000"}, 2.0),
        ({"a/cpu.max": "100000 100000", "a/b/cpu.max": "max 100000", "a/b/c/cpu.max": "max 100000"}, 1.0),
        ({"a/b/c/cpu.max": "250000 100000"}, 2.5),
        ({"cpu.max": "250000 100000", "a/b/c/cpu.max": "max 100000"}, 2.5),
        ({"a/other/cpu.max": "100000 100000", "a/b/c/d/cpu.max": "100000 100000"}, None),
        ({}, None),
    ],
)
def test_the_tightest_of_a_group_and_its_parents(tmp_path, files, quota):
    assert tree(tmp_path, files, "0::/a/b/c\n") == quota


@pytest.mark.parametrize(
    ("values", "quota"),
    [(("150000", "100000"), 1.5), (("-1", "100000"), None), (("200000", "50000"), 4.0), (("100000", "0"), None), (("", ""), None)],
)
@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_version_1(tmp_path, values, quota, mount):
    files = {f"{mount}/docker/x/cpu.cfs_quota_us": values[0] + "\n", f"{mount}/docker/x/cpu.cfs_period_us": values[1] + "\n"}
    lines = "12:memory:/docker/other\n4:cpu,cpuacct:/docker/x\n1:name=systemd:/docker/x\n"
    assert tree(tmp_path, files, lines) == quota


def test_version_1_parents_and_other_controllers(tmp_path):
    files = {
        "cpu/cpu.cfs_quota_us": "-1",
        "cpu/cpu.cfs_period_us": "100000",
        "cpu/pod/cpu.cfs_quota_us": "200000",
        "cpu/pod/cpu.cfs_period_us": "100000",
        "cpu/pod/one/cpu.cfs_quota_us": "700000",
        "cpu/pod/one/cpu.cfs_period_us": "100000",
        "cpuset/pod/one/cpu.cfs_quota_us": "100000",
        "cpuset/pod/one/cpu.cfs_period_us": "100000",
    }
    assert tree(tmp_path, files, "5:cpuset:/pod/one\n4:cpu:/pod/one\n") == 2.0


def test_both_versions_at_once(tmp_path):
    files = {"cpu/x/cpu.cfs_quota_us": "300000", "cpu/x/cpu.cfs_period_us": "100000", "y/cpu.max": "200000 100000"}
    assert tree(tmp_path, files, "4:cpu:/x\n0::/y\n") == 2.0


def test_inside_a_container_the_root_alone_tells(tmp_path):
    """There the membership names a path of the host, which is not mounted."""
    assert tree(tmp_path, {"cpu.max": "150000 100000"}, "0::/system.slice/docker-123.scope\n") == 1.5
    assert tree(tmp_path / "up", {"cpu.max": "150000 100000"}, "0::/../../app\n") == 1.5


def test_a_path_with_a_colon(tmp_path):
    assert tree(tmp_path, {"a:b/cpu.max": "150000 100000"}, "0::/a:b\n") == 1.5


@pytest.mark.parametrize("content", ["", "\n", "nonsense\n", "0::"])
def test_a_strange_or_missing_membership(tmp_path, content):
    assert tree(tmp_path, {"x/cpu.max": "100000 100000"}, content) is None
    assert cpus.cgroup_quota(tmp_path / "cgroup", MISSING) is None


@pytest.mark.parametrize(
    ("allowed", "quota", "want"),
    [(8, None, 8), (8, 1.5, 2), (8, 2.0, 2), (1, 4.0, 1), (8, 0.1, 1), (3, 7.5, 3), (4, 2.0001, 3)],
)
def test_available_is_the_smaller_of_affinity_and_quota_rounded_up(monkeypatch, allowed, quota, want):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(allowed)), raising=False)
    monkeypatch.setattr(cpus, "_quota", lambda second: quota)
    assert cpus.available_cpus() == cpus.resolve_threads(None) == want


def test_the_quota_is_read_once_a_second(monkeypatch):
    now, read = [100.0], []
    monkeypatch.setattr(cpus, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(cpus, "cgroup_quota", lambda root, membership: read.append(root) or float(len(read)))
    cpus._quota.cache_clear()
    seen = []
    for now[0] in (100.0, 100.2, 100.9, 101.1, 101.5, 200.0):
        seen.append(cpus.available_cpus())
    assert seen == [1, 1, 1, 2, 2, 3]
    cpus._quota.cache_clear()


def test_available_where_there_is_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(cpus, "_quota", lambda second: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert cpus.available_cpus() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpus.available_cpus() == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_the_real_affinity_counts():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cpus.available_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert 1 <= cpus.available_cpus() <= len(before)


@pytest.mark.parametrize("threads", [0, -1, 1025, 1.0, "2", True, False, float("nan")])
def test_a_number_of_threads_that_is_none(threads, tmp_path):
    with pytest.raises(InputError, match=r"threads.*from 1 to 1024, or None"):
        cpus.resolve_threads(threads)
    with pytest.raises(InputError, match="threads"):
        rr.load(write_model(tmp_path, cross()), device="cpu", threads=threads)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_number_of_threads_is_taken_as_it_is(threads):
    assert cpus.resolve_threads(threads) == threads


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("write", [lambda path: write_model(path, cross()), write_encoder])
def test_the_session_has_the_threads_that_were_asked_for(tmp_path, threads, write):
    model = rr.load(write(tmp_path), device="cpu", threads=threads)
    options = model.runtime._session.get_session_options()
    runtime = model.runtime
    assert options.intra_op_num_threads * runtime.workers == threads == runtime.threads
    assert runtime.workers == (threads if isinstance(model, rr.CrossEncoder) else 1), "a query to be embedded comes alone"
    assert options.inter_op_num_threads == 1


@pytest.mark.parametrize(("write", "intra"), [(lambda path: write_model(path, cross()), 1), (write_encoder, 3)])
def test_by_default_the_session_has_what_this_process_may_use(tmp_path, monkeypatch, write, intra):
    monkeypatch.setattr(cpus, "available_cpus", lambda: 3)
    runtime = rr.load(write(tmp_path), device="cpu").runtime
    assert runtime._session.get_session_options().intra_op_num_threads == intra, "0 would be one for each core of the host"
    assert intra * runtime.workers == 3
