"""Processes of torchrun that share each step end where one process ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from recsim_env.shoppers.session.fit import Batches, fit_session
from recsim_env.shoppers.session.visits import Visits
from recsim_env.shoppers.training import parts_of, process, processes, shared_steps
from tests.recsim_env.shoppers.session.test_model import catalog, log
from tests.support.fake_log import write_shop
from tests.support.shared_fits import SESSION, fit_both


def test_without_torchrun_there_is_one_process_and_one_part() -> None:
    assert (processes(), process(), parts_of(None), parts_of(3)) == (1, 0, 1, 3)
    assert shared_steps(3, "cpu")["gradient_accumulation_steps"] == 3


def test_parts_are_shared_equally(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert (processes(), process(), parts_of(None), parts_of(4)) == (2, 1, 2, 4)
    assert shared_steps(4, "cpu")["gradient_accumulation_steps"] == 2
    with pytest.raises(
        ValueError, match=r"^parts is 3, but it must be a multiple of the 2 processes\.$"
    ):
        parts_of(3)
    with pytest.raises(ValueError, match=r"^folder is None, but processes of torchrun must share"):
        fit_session(log(60), catalog(), SESSION)


def test_a_pass_in_parts_has_as_many_steps_and_holds_every_visit_once() -> None:
    visits = Visits.of(log(64), catalog())
    whole, parts = Batches(visits, SESSION), Batches(visits, SESSION, parts=2)
    assert parts.steps == whole.steps
    assert len(parts) == 2 * len(whole)
    one_pass = len(parts) // 3
    found = [len(parts[number]["slates"]) for number in range(one_pass)]
    assert sum(found) == len(visits.slates)


@pytest.mark.slow
def test_two_processes_end_where_one_process_ends(tmp_path: Path) -> None:
    log, one, two = (tmp_path / name for name in ("log", "one", "two"))
    log.mkdir()
    write_shop(log)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.support.shared_fits", str(log), str(two)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    fit_both(log, one, parts=2)
    for name in ("household", "session"):
        alone, shared = (load_file(path / f"{name}.safetensors") for path in (one, two))
        assert alone.keys() == shared.keys()
        for key, value in alone.items():
            gap = (shared[key].double() - value.double()).norm()
            assert gap <= 1e-3 * value.double().norm() + 1e-6, f"{name}: {key}"
    (newest, *_) = (two / "finetune").glob("checkpoint-*")
    assert (newest / "rng_state_1.pth").exists()  # both processes were there
