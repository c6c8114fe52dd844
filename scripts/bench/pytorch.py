"""PyTorch + diffusers + peft, f32: one training step per line on stdin (see bench.js)."""

import json
import platform
import sys
import time

import diffusers
import peft
import torch
from safetensors.torch import load_file

settings = json.loads(sys.argv[1])
torch.set_num_threads(settings["threads"])


def memory() -> dict[str, int]:
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return {"peakKiB": int(status["VmHWM"].split()[0])}


def calibrate() -> dict[str, float]:
    """GFLOP/s of one large f32 matrix product, best of five."""
    a, b = torch.randn(2, 2048, 2048)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return {"gflops": 2 * 2048**3 / best / 1e9}


inputs = load_file(settings["inputs"])
first = {name: inputs[name].permute(0, 3, 1, 2).contiguous() for name in ("latents", "noise")}
unet = diffusers.UNet2DConditionModel.from_pretrained(settings["unet"], dtype=torch.float32)
rank = settings["rank"]
unet.requires_grad_(False)
unet.add_adapter(peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
adapters = []
with torch.no_grad():
    for path, module in unet.named_modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            for side, layers in (("down", module.lora_A), ("up", module.lora_B)):
                weight = layers["default"].weight
                weight.copy_(inputs[f"{path}.{side}"].view_as(weight))
                adapters.append(weight)
optimizer = torch.optim.AdamW(adapters, lr=settings["learningRate"], weight_decay=1e-2)
timesteps = inputs["timesteps"].long()
signal, sigma = inputs["coefficients"][:, :, None, None, None].unbind(1)
unet.train()


def step() -> dict[str, float]:
    start = time.perf_counter()
    noisy = signal * first["latents"] + sigma * first["noise"]
    prediction = unet(noisy, timesteps, inputs["context"]).sample
    loss = torch.nn.functional.mse_loss(prediction, first["noise"])
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(adapters, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return {"loss": loss.item(), "gradNorm": norm.item(), "seconds": time.perf_counter() - start}


def reply(value: dict) -> None:
    print(json.dumps(value), flush=True)


versions = f"PyTorch {torch.__version__}, diffusers {diffusers.__version__}, peft {peft.__version__}, Python {platform.python_version()}"
reply({"about": versions, "adapters": sum(weight.numel() for weight in adapters)})
commands = {"step": step, "memory": memory, "calibrate": calibrate}
for line in sys.stdin:
    reply(commands[line.strip()]())
