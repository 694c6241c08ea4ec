"""Everything that changes while a policy is trained with PPO, as one object that can be saved exactly."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from workflow.config.policies import PpoConfig
from workflow.formats.files import replacing, write_json
from workflow.policies.lora import ADAPTER, with_lora
from workflow.policies.ppo import ValueHead

STATE = "state.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")


class Learner:
    """The adapted policy, its value head, the optimiser and the number of updates done."""

    def __init__(self, model: PreTrainedModel, settings: PpoConfig) -> None:
        """A fresh learner: the adapter changes nothing yet, the value head expects 0."""
        self.policy = with_lora(model, settings.lora_rank, settings.lora_alpha, settings.seed)
        self.value = ValueHead(model.config.get_text_config().hidden_size).to(model.device)
        self.update = 0
        self.policy_weights = self.policy.weights()
        self._weights: dict[str, nn.Parameter] = {
            **self.policy_weights,
            **{f"value.{name}": weight for name, weight in self.value.named_parameters()},
        }
        groups = [
            {"params": list(self.policy_weights.values()), "lr": settings.lr},
            {"params": list(self.value.parameters()), "lr": settings.value_lr},
        ]
        self.optimiser = torch.optim.AdamW(groups, weight_decay=0.0)

    def step(self, loss: Tensor, grad_clip: float) -> float:
        """One optimiser step; returns the norm of the policy's gradient before clipping."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.policy_weights.values(), grad_clip)
        self.optimiser.step()
        return float(norm)

    def save(self, path: Path, **more: Any) -> None:
        """Write the state and `more` (plain data) as one file in one step."""
        tensors = {f"weight.{name}": weight.detach() for name, weight in self._weights.items()}
        steps = {}
        for name, weight in self._weights.items():
            if state := self.optimiser.state.get(weight):
                tensors |= {f"{moment}.{name}": state[moment] for moment in MOMENTS}
                steps[name] = float(state["step"])
        counters = {"update": self.update, "optimiser_steps": steps, **more}
        with replacing(path) as temporary:
            # one metadata entry: the order of several is not fixed, and equal states must give equal bytes
            save_file({name: t.cpu().contiguous() for name, t in tensors.items()}, temporary, {"counters": json.dumps(counters)})

    def load(self, path: Path) -> dict[str, Any]:
        """Take over a saved state; returns its counters and what else was saved.

        Raises:
            ValueError: the state belongs to a policy or adapter of another shape.
        """
        with safe_open(path, framework="pt") as saved:
            tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118  not a dict
            counters = json.loads(saved.metadata()["counters"])
        shapes = {name.removeprefix("weight."): t.shape for name, t in tensors.items() if name.startswith("weight.")}
        if shapes != {name: weight.shape for name, weight in self._weights.items()}:
            raise ValueError(
                f"{path} must hold the training state of this policy and adapter; its tensors have other names or shapes. "
                "Delete the run's folder in results/policies and run again."
            )
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(tensors[f"weight.{name}"])
                if name in counters["optimiser_steps"]:
                    moments = {moment: tensors[f"{moment}.{name}"].to(weight.device) for moment in MOMENTS}
                    self.optimiser.state[weight] = {"step": torch.tensor(counters["optimiser_steps"][name]), **moments}
        self.update = counters["update"]
        return counters

    def export(self, folder: Path) -> None:
        """Write the training folder: the state, and the adapter in peft's own form for other programs."""
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        self.save(folder / STATE)
        adapter = {name: t.detach().cpu().contiguous() for name, t in get_peft_model_state_dict(self.policy.peft).items()}
        save_file(adapter, folder / "adapter_model.safetensors", {"format": "pt"})
        described = self.policy.peft.peft_config[ADAPTER].to_dict()
        # sets have no fixed order, and where the base lay is no property of the adapter
        plain = {name: sorted(value) if isinstance(value, set) else value for name, value in described.items()}
        write_json(folder / "adapter_config.json", {**plain, "base_model_name_or_path": None, "inference_mode": True})
