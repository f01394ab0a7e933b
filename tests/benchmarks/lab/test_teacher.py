"""Teachers: what learns and what does not, relative scores, and where models may come from."""

import random
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from benchmarks.lab import teacher as lab
from benchmarks.lab.teacher import (
    Base,
    Lesson,
    Teacher,
    Teaching,
    adapted,
    fit_teacher,
    open_teacher,
    padding_of,
    relative,
    score,
)

MARKS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
WORDS = (*MARKS, *(f"w{number}" for number in range(16)))
SIGN = 7
"""The token that tells the label in the trivial task."""


def tiny(seed: int = 0) -> Teacher:
    """A model of random weights that reads 20 tokens."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=64,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=0,
        )
        return Teacher(adapted(BertModel(config), ("query", "value")), config.hidden_size)


def lesson(rows: int, seed: int) -> Lesson:
    """Lines of eight tokens; what holds `SIGN` in its past is bought."""
    draw = random.Random(seed)
    pasts = [tuple(draw.choice((5, 6, 8, 9)) for _ in range(4)) for _ in range(rows)]
    label = [draw.random() < 0.5 for _ in range(rows)]
    pasts = [
        (SIGN, SIGN, *past) if yes else (5, 6, *past)
        for past, yes in zip(pasts, label, strict=True)
    ]
    return Lesson(
        [(1, *past, 2, 10, 2) for past in pasts],
        [(1, 2, 10, 2)] * rows,
        torch.tensor(label).float(),
        torch.zeros(rows),
    )


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def how(seed: int = 0, rate: float = 1e-2, epochs: float = 1.0) -> Teaching:
    return Teaching(epochs=epochs, together=16, rate=rate, precision="fp32", seed=seed)


def test_adapters_and_classifier_learn_and_the_base_does_not(tmp_path: Path) -> None:
    teacher = tiny()
    before = weights(teacher)
    fit_teacher(teacher, lesson(64, 0), lesson(16, 1), 0, how(epochs=3), tmp_path)
    after = weights(teacher)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    own = {name for name in before if "lora_" in name}
    assert changed == own | {"classifier.weight", "classifier.bias", "prior"}
    assert {name for name, value in teacher.named_parameters() if value.requires_grad} == changed
    assert any("query.lora_A" in name for name in own)
    assert not any("key.lora" in name for name in own)


@pytest.mark.slow
def test_a_tiny_model_learns_a_trivial_task_from_the_past_alone(tmp_path: Path) -> None:
    teacher, judged = tiny(), lesson(100, 2)
    fit_teacher(teacher, lesson(600, 0), lesson(100, 1), 0, how(epochs=6), tmp_path)
    raw, found = relative(teacher, judged.full, judged.bare, 0, "fp32")
    for logits in (raw, found):
        assert logits[judged.label > 0].min() > logits[judged.label == 0].max()


def test_the_same_seed_gives_the_same_weights_and_global_generators_stand(tmp_path: Path) -> None:
    found = []
    state = torch.get_rng_state()
    for number, seed in enumerate((0, 0, 1)):
        teacher = tiny()
        fit_teacher(teacher, lesson(48, 0), lesson(16, 1), 0, how(seed), tmp_path / str(number))
        found.append(weights(teacher))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert any(not torch.equal(found[0][name], found[2][name]) for name in found[0])


def test_a_finished_fit_is_read_from_its_checkpoint(tmp_path: Path) -> None:
    first, again = tiny(), tiny()
    fit_teacher(first, lesson(48, 0), lesson(16, 1), 0, how(), tmp_path)
    fit_teacher(again, lesson(48, 0), lesson(16, 1), 0, how(), tmp_path)
    assert any(tmp_path.rglob("model.safetensors"))
    assert all(torch.equal(one, weights(again)[name]) for name, one in weights(first).items())


def test_the_relative_score_of_an_empty_past_is_zero() -> None:
    teacher = tiny()
    told = lesson(5, 3)
    full = [told.bare[0], *told.full]
    _, found = relative(teacher, full, [told.bare[0], *told.bare], 0, "fp32")
    assert found[0] == 0
    assert bool((found[1:] != 0).all())


def test_scores_do_not_depend_on_what_is_scored_beside() -> None:
    teacher = tiny()
    lines = [(1, 5, 6, 2, 10, 2), (1, 2, 11, 2), (1, 5, 6, 2, 10, 2), (1, 2, 12, 2)]
    found = score(teacher, lines, 0, "fp32")
    assert found[0] == found[2]
    alone = torch.cat([score(teacher, [line], 0, "fp32") for line in lines])
    torch.testing.assert_close(found, alone)


def write_model(folder: Path) -> Path:
    """Write a tiny model as safetensors, and its tokenizer."""
    model: Any = tiny().model
    model.unload().save_pretrained(folder)
    words = Tokenizer(WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
    ).save_pretrained(folder)
    return folder


def test_a_teacher_is_opened_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "tiny")
    monkeypatch.setitem(lab.BASES, "tiny", Base(lambda: folder, ("query", "value")))

    def refused(*given: object) -> None:
        raise AssertionError("nothing is fetched")

    monkeypatch.setattr(socket.socket, "connect", refused)
    one, tokenizer = open_teacher("tiny", 0)
    same, _ = open_teacher("tiny", 0)
    other, _ = open_teacher("tiny", 1)
    assert padding_of(tokenizer) == 0
    assert all(torch.equal(value, weights(same)[name]) for name, value in weights(one).items())
    differ = {
        name for name, value in weights(one).items() if not torch.equal(value, weights(other)[name])
    }
    assert differ
    assert all("lora_A" in name or "classifier" in name for name in differ)


def test_only_safetensors_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "tiny")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    monkeypatch.setitem(lab.BASES, "tiny", Base(lambda: folder, ("query", "value")))
    with pytest.raises(OSError, match=r"model\.safetensors"):
        open_teacher("tiny", 0)
