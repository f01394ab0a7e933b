"""Small fits of both learned families, whose weights land in files: what `torchrun` runs in a test.

torchrun --nproc-per-node 2 -m tests.support.shared_fits LOG OUTPUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

from benchmarks.lab.logs import Log
from recsim_env.files import write_tensors
from recsim_env.shoppers.household.fit import FinetuneConfig, fit, new_shopper
from recsim_env.shoppers.session.fit import SessionFitConfig, fit_session
from recsim_env.shoppers.training import process
from tests.recsim_env.shoppers.session.test_model import catalog, log

HOUSEHOLD = FinetuneConfig(
    hidden_size=16,
    layers=1,
    window=8,
    head_size=16,
    batch_visits=300,
    dropout=0.0,
    pretrain_epochs=0.5,
    epochs=1.0,
)
"""Without dropout, whose draws differ between processes."""
SESSION = SessionFitConfig(
    epochs=3,
    least_steps=1,
    batch_episodes=8,
    temperaments=4,
    hidden_size=16,
    head_size=8,
    layers=1,
    dropout=0.0,
)


def fit_both(folder: Path, output: Path, parts: int) -> None:
    """Fit both families, each batch in so many parts, and write their weights."""
    torch.set_num_threads(1)
    shop = Log.load(folder)
    household = new_shopper(shop.catalog, HOUSEHOLD, shop.facts)
    for module in household.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # of the gaps' head
    household.config.id_dropout = 0.0
    examples = shop.examples(cold_hidden=False)
    for stage in ("pretrain", "finetune"):
        fit(household, examples, HOUSEHOLD, output, stage=stage, parts=parts)
    session = fit_session(
        log(60), catalog(), SESSION, validation=0.2, folder=output / "session", parts=parts
    )
    if process() == 0:
        for name, model in {"household": household, "session": session}.items():
            write_tensors(output / f"{name}.safetensors", model.state_dict())


if __name__ == "__main__":
    fit_both(Path(sys.argv[1]), Path(sys.argv[2]), 2)
