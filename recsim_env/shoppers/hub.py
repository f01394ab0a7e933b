"""User models on the Hugging Face Hub: a model of one's own is pushed, and anybody's is read by id.

`model.push_to_hub("owner/name")` uploads configuration, weights and a card. Where this package is
imported, `AutoModel.from_pretrained("owner/name")` reads them: no code is fetched or run, see
`recsim_env.shoppers.weights`. Nothing here goes to the network unless it is asked to push.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsim_env import checks, files

if TYPE_CHECKING:
    from recsim_env.shoppers.weights import CheckedModel

CARD = "README.md"
"""File of the card."""
ABOUT: dict[str, tuple[str, str]] = {
    "slate_shopper": (
        "A causal transformer over a household's visits with long-run counters: what of a slate is "
        "bought, what else is bought, and when the household is back.",
        "recsim_env.shoppers.household.model",
    ),
    "session_shopper": (
        "A causal transformer over a user's slates with counters and a drifting interest: which "
        "items of a slate are clicked, by position, whether the user leaves, and when they are "
        "back.",
        "recsim_env.shoppers.session.model",
    ),
}
"""What a family of models does, and the module that makes it known to transformers, by type."""
LIMITS = """\
For simulating users in experiments with recommendation policies, by `recsim_env`. Not for decisions
about single persons, and no evidence of what people would do: an agent that does well with these
users does well with this model. A model knows what its log held. Where logging policies used what
the log does not hold, it takes that for the pull of the items; what no policy showed it has to
guess."""
"""What may be done with a model, and what not."""


def card_of(
    model_type: str,
    *,
    data: str = "Not told.",
    training: Mapping[str, Any] | None = None,
    scores: str = "Not told.",
    license: str = "other",
) -> str:
    """Write a model card: what the model is, how it is read, data, training, scores, limits.

    Args:
        model_type: Type of the model, one of `ABOUT`.
        data: What it was fitted to, and who may use that.
        training: Settings and facts of the training.
        scores: Held-out scores, as markdown.
        license: Licence of the weights, as the Hub names it.

    Raises:
        ValueError: If there is no such type of model, or a text is empty.
    """
    checks.choice("model_type", model_type, ABOUT)
    texts = {"data": data, "scores": scores, "license": license}
    told = {name: checks.text(name, value) for name, value in texts.items()}
    about, module = ABOUT[model_type]
    settings = "Not told."
    if training is not None:
        settings = f"```json\n{json.dumps(dict(training), indent=1, default=str)}\n```"
    return f"""---
license: {told["license"]}
library_name: transformers
tags: [recommendation, user-simulation, recsim-env]
---

# {model_type.replace("_", " ").capitalize()}

{about}

```python
import {module}  # transformers knows the model from here on
from transformers import AutoModel

model = AutoModel.from_pretrained("path/to/this/folder")  # or owner/name on the Hub
```

## Use and limits

{LIMITS}

## Data

{told["data"]}

## Training

{settings}

## Held-out scores

{told["scores"]}
"""


def push(
    model: CheckedModel,
    repo_id: str,
    *,
    card: str | None = None,
    private: bool = True,
    token: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Upload a model with its card to the Hub; the repository is made where it is missing.

    Args:
        model: The model.
        repo_id: `owner/name`.
        card: The card, by `card_of` for example; None says what is known of any such model.
        private: Whether a new repository is private; an existing one stays what it is.
        token: Access token; None means that of `hf auth login`.
        commit_message: Message of the commit.

    Returns:
        The address of the commit.

    Raises:
        ValueError: If an argument is not as said.
        huggingface_hub.errors.HfHubHTTPError: If the Hub refuses.
    """
    from huggingface_hub import HfApi

    from recsim_env.shoppers.weights import save_model

    checks.text("repo_id", repo_id)
    checks.flag("private", private)
    text = card_of(model.config.model_type) if card is None else checks.text("card", card)
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, folder)
        files.write_text(Path(folder) / CARD, text)
        made = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(
            repo_id=made,
            folder_path=folder,
            allow_patterns=["config.json", "model.safetensors", CARD],
            commit_message=commit_message or f"Upload a {model.config.model_type}",
        )
    return str(commit.commit_url)
