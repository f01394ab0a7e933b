"""Draw docs/visit.png, a visit under the greedy CTR ranker: `python -m docs.visit`."""

from pathlib import Path

import torch
from PIL import Image

from policies.rankers.ctr import WEIGHTS, CTRRanker, load_model
from recsim_env import SlateEnv

SEED, VISITS = 3, 6


def main() -> None:
    """Play some visits of one shopper and save the frame of the last."""
    env = SlateEnv(
        "recsim_env/CompleteJourney-v0",
        render_mode="rgb_array",
        population="evaluation",
        device="cpu",
    )
    ranker = CTRRanker(env.simulator.catalog, load_model(WEIGHTS))
    observation, _ = env.reset(seed=SEED)
    for _ in range(VISITS):
        known = {name: torch.from_numpy(value)[None] for name, value in observation.items()}
        best = ranker.logits(known)[0].topk(env.simulator.slate_size).indices
        observation, _, terminated, truncated, info = env.step(known["candidates"][0, best].numpy())
        print(f"day {info['day']:.0f}: {info['clicks']} bought")
        if terminated or truncated:
            raise SystemExit("The episode is over before the last visit: take another seed.")
    Image.fromarray(env.render()).quantize(64).save(Path(__file__).with_name("visit.png"))


if __name__ == "__main__":
    main()
