"""A shopper of one's own: written, held against its promises, registered, and met in Gymnasium."""

import gymnasium
import torch
from torch import Tensor

import recsim_env
from recsim_env.shoppers.base import Shopper
from recsim_env.testing import check_shopper
from recsim_env.types import Response


class Regulars(Shopper[Tensor]):
    """Each likes one category, buys what is shown of it with chance 0.3, and comes every week."""

    def __init__(self, device: torch.device, slate_size: int, items: int = 100) -> None:
        catalog = recsim_env.Catalog.synthetic(items, 5, 8, torch.Generator().manual_seed(0))
        super().__init__(catalog, slate_size, device=device)

    def start(self, draws: Tensor) -> Tensor:
        """Draw the category that each of B new shoppers likes; draws are (B, 1)."""
        return (5 * draws[:, 0]).long()

    def respond(self, state: Tensor, slates: Tensor, shown: Tensor, draws: Tensor) -> Response:
        """Buy by chance; slates, shown and draws are (B, K)."""
        chance = 0.3 * (shown & (self.catalog.category[slates] == state[:, None]))
        always, never = torch.ones_like(chance[:, 0]), torch.zeros_like(chance[:, 0])
        return Response(draws < chance, chance, never.bool(), days=7 * always, elsewhere=never)


recsim_env.register("shop/Regulars-v0", Regulars, slate_size=4, reward={"clicks": 1.0})

if __name__ == "__main__":
    check_shopper(Regulars(torch.device("cpu"), slate_size=4))
    env = gymnasium.make("shop/Regulars-v0")
    env.action_space.seed(0)
    env.reset(seed=1)
    for _ in range(5):
        _, reward, _, _, info = env.step(env.action_space.sample())
        print(f"{info['clicks']} clicks, reward {reward:.2f}, back in {info['gap_days']:.0f} days")
