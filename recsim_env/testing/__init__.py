"""Checks for shoppers, policies and reward terms of one's own.

They are for these what Gymnasium's `check_env` is for environments:

    from recsim_env.testing import check_policy, check_shopper, check_term

    check_shopper(MyShopper(torch.device("cpu"), slate_size=10))
    check_policy(MyPolicy(), make_simulator("recsim_env/Market-v0"))
    check_term(my_term)

Each of them returns nothing, or raises ValueError with one sentence that names the broken promise.
"""

from recsim_env.testing.policies import check_policy
from recsim_env.testing.shoppers import check_shopper
from recsim_env.testing.terms import check_term

__all__ = ["check_policy", "check_shopper", "check_term"]
