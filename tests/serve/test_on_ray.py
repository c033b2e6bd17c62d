"""What the server on Ray is asked for and how many replicas that makes, up to where Ray begins: tests/ray has the rest."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")

from rerank_engine import cli
from rerank_engine.cluster import require_ray
from rerank_engine.errors import InputError, MissingDependency
from rerank_engine.serve.on_ray import Model, build, desired, work


def test_the_policy_rounds_up_the_work_of_all():
    def of(*told):
        return desired(SimpleNamespace(aggregated_metrics={"work": dict(enumerate(told))}))[0]

    assert (of(), of(0.0), of(1.0), of(1.01), of(0.2, 0.3), of(0.9, 0.9), of(1.0, 4.5)) == (1, 1, 1, 2, 1, 2, 6)
    assert desired(SimpleNamespace(aggregated_metrics=None)) == (1, {})
    assert desired(SimpleNamespace(aggregated_metrics={})) == (1, {})


def test_work_is_time_in_use_and_the_queue():
    assert work(0, 1000.0, 0.3, 5.0) == pytest.approx(0.3)
    assert work(1000, 1000.0, 1.0, 5.0) == pytest.approx(2.0)  # a fifth of 5 s waits: as much as another should have
    assert work(500, 1000.0, 1.2, 5.0) == pytest.approx(1.5)
    assert work(500, 0.0, 0.0, 5.0) == 0.0  # no pace yet
    assert work(100, 1000.0, 0.0, 0.0) == pytest.approx(1.0)  # nobody may wait


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"replicas": 0}, "replicas"), ({"replicas": 3, "max_replicas": 2}, "max_replicas"), ({"cpus": 0}, "cpus"), ({"gpus": -1}, "gpus"),
        ({"gpus": 1.5}, "gpus"), ({"cpus": float("nan")}, "cpus"), ({"down_s": -1}, "down_s"),
    ],
)  # fmt: skip
def test_what_a_model_cannot_have(wrong, said):
    with pytest.raises(InputError, match=said):
        Model("m", **wrong)


def test_threads_are_cpus():
    assert [Model("m", cpus=cpus).threads for cpus in (0.5, 1, 2, 3.5)] == [1, 1, 2, 3]
    assert Model(lambda threads: {"scorer": threads}, cpus=4).opened() == {"scorer": 4}


def test_without_ray_it_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    for call in (lambda: require_ray("serve"), lambda: build({"m": Model("m")})):
        with pytest.raises(MissingDependency, match=r"pip install 'rerank-engine\[ray\]'"):
            call()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--replicas", "2"], "--replicas"), (["--max-replicas", "2"], "--max-replicas"), (["--gpus", "0.5"], "--gpus"),
        (["--cpus", "2"], "--cpus"), (["--model", "a", "--model", "b"], "--ray"), (["--ray", "--threads", "2"], "--cpus"),
        (["--ray", "--replicas", "0"], "replicas"), (["--ray", "--replicas", "3", "--max-replicas", "2"], "max_replicas"),
        (["--ray", "--gpus", "1.5"], "gpus"), (["--ray", "--model", "a", "--model", "a"], "different names"),
    ],
)  # fmt: skip
def test_what_the_command_cannot_combine(given, said, capsys, monkeypatch):
    monkeypatch.setattr("rerank_engine.serve.on_ray.deploy", lambda *_, **__: pytest.fail("Ray was started"))
    monkeypatch.setattr("rerank_engine.runtimes.load", lambda *_, **__: pytest.fail("a model was loaded"))
    assert cli.main(["serve", "--port", "0", *given]) == 2
    assert said in capsys.readouterr().err


def test_the_command_hands_over_what_it_was_given(tmp_path, monkeypatch, capsys):
    told = {}

    def deploy(models, **options):
        told.update(models=models, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr("rerank_engine.cluster.require_ray", lambda _: SimpleNamespace(shutdown=lambda: told.update(stopped=True)))
    monkeypatch.setattr("rerank_engine.serve.on_ray.deploy", deploy)
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    given = "--model mine --model owner/other --replicas 2 --max-replicas 8 --cpus 2 --gpus 0.5 --index passages.bm25 --max-documents 7"
    assert cli.main(["serve", "--ray", "--port", "0", *given.split()]) == 130
    assert told["stopped"] and list(told["models"]) == ["mine", "owner/other"] and told["host"] == "127.0.0.1" and told["port"] == 0
    for model in told["models"].values():
        assert (model.replicas, model.max_replicas, model.cpus, model.gpus) == (2, 8, 2.0, 0.5)
        assert model.source.args[0].index == [str(tmp_path / "passages.bm25")]
    assert [model.source.args[1] for model in told["models"].values()] == [str(tmp_path / "mine"), "owner/other"]
    assert told["limits"].documents == 7 and told["hosts"] == ("localhost", "127.0.0.1", "[::1]")
