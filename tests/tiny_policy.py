"""A tiny policy that answers 7 or 5 at random, problems whose answer is 7, and the folders that the policy rules make of them."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM

from workflow.config.policies import WarmupConfig
from workflow.config.prompts import PromptsConfig
from workflow.formats.problems import Problem, problem_id, write_problems
from workflow.language_model import load_tokenizer
from workflow.policies.base import make_base
from workflow.policies.scoring import arrange, score
from workflow.policies.start import materialise_start
from workflow.prompts import render, response_tokens

COMPUTE = {"device": "cpu", "dtype": "float32"}
PROMPTS = PromptsConfig(system="Answer with ####.")


class TinyStudy(NamedTuple):
    """Paths of a study whose base policy is ready."""

    problems: Path
    start: Path
    base: Path


def sevens() -> list[Problem]:
    """Sums whose answer is 7, every other one with three times the weight."""
    problems = []
    for split in ("warmup", "ppo"):
        for rank in range(8):
            first = rank if split == "warmup" else 10 + rank
            question, weight = f"{first} + {7 - first} =", 1.5 if rank % 2 else 0.5
            problems.append(
                Problem(problem_id(question), question, "7", "#### 7", split, rank, str(rank % 2), weight, f"{split}{rank}")
            )
    return problems


def teach(folder: Path, target: Path, updates: int = 50) -> Path:
    """Train all weights of a random model until it answers `#### 7` or `#### 5`, as often the one as the other."""
    tokenizer = load_tokenizer(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(5)  # else no state could tell 7 from 5 with certainty: the head stays as it is
    asked = [render(tokenizer, problem._asdict(), PROMPTS).token_ids for problem in sevens()] * 2
    answers = [response_tokens(tokenizer, f"#### {answer}") for answer in (7, 5) for _ in sevens()]
    texts = arrange(asked, answers, torch.device("cpu"))
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(updates):
        optimiser.zero_grad()
        (-(score(model, texts).logprobs * texts.written).sum() / texts.written.sum()).backward()
        optimiser.step()
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def make_tiny_study(root: Path, random_model: Path, warmup_updates: int = 2) -> TinyStudy:
    """Start model and base policy, made as the rules make them."""
    study = TinyStudy(root / "problems.parquet", root / "start", root / "base")
    taught = teach(random_model, root / "taught")
    write_problems(study.problems, sevens())
    materialise_start(
        model=study.start / "model", manifest=study.start / "manifest.json", source=str(taught), revision=None, key="k"
    )
    make_base(
        start=study.start / "manifest.json", start_model=study.start / "model", problems=study.problems, model=study.base / "model",
        manifest=study.base / "manifest.json", curve=study.base / "curve.csv",
        warmup=WarmupConfig(updates=warmup_updates, batch=4, lr=1e-4), lora={"rank": 4, "alpha": 8}, prompts=PROMPTS,
        compute=COMPUTE, key="k",
    )  # fmt: skip
    return study
