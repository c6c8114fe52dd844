"""PyTorch + diffusers + peft, f32 or fp16 as diffusers' scripts mix it: one training step per line on stdin (see bench.js)."""

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
device = torch.device(settings["device"])
on_gpu = device.type == "cuda"
dtype = {"f32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[settings["computes"]]
mixed = dtype != torch.float32


def synchronize() -> None:
    if on_gpu:
        torch.cuda.synchronize()


def memory() -> dict[str, int]:
    if on_gpu:
        return {"peakKiB": torch.cuda.max_memory_allocated() // 1024}
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return {"peakKiB": int(status["VmHWM"].split()[0])}


def calibrate() -> dict[str, float]:
    """GFLOP/s of one large matrix product, best of five."""
    size = 8192 if on_gpu else 2048
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(6):
        synchronize()
        start = time.perf_counter()
        a @ b
        synchronize()
        best = min(best, time.perf_counter() - start)
    del a, b
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    return {"gflops": 2 * size**3 / best / 1e9}


inputs = {name: value.to(device) for name, value in load_file(settings["inputs"]).items()}
first = {name: inputs[name].permute(0, 3, 1, 2).contiguous() for name in ("latents", "noise")}
unet = diffusers.UNet2DConditionModel.from_pretrained(settings["unet"], dtype=dtype).to(device)
rank = settings["rank"]
unet.requires_grad_(False)
if settings["recompute"]:
    unet.enable_gradient_checkpointing()
unet.add_adapter(peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
adapters = []
with torch.no_grad():
    for path, module in unet.named_modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            for side, layers in (("down", module.lora_A), ("up", module.lora_B)):
                weight = layers["default"].weight
                weight.data = weight.data.float()  # diffusers:training_utils.py, cast_training_params
                weight.copy_(inputs[f"{path}.{side}"].view_as(weight))
                adapters.append(weight)
optimizer = torch.optim.AdamW(adapters, lr=settings["learningRate"], weight_decay=1e-2)
timesteps = inputs["timesteps"].long()
added = {"text_embeds": inputs["pooled"], "time_ids": inputs["time_ids"]} if "pooled" in inputs else None
signal, sigma = inputs["coefficients"][:, :, None, None, None].unbind(1)
# Of a fixed scale, so that both sides compute the same.
scaler = torch.amp.GradScaler(device.type, init_scale=settings["lossScale"], growth_interval=2**31 - 1, enabled=dtype == torch.float16)
unet.train()


def step() -> dict[str, float]:
    start = time.perf_counter()
    noisy = signal * first["latents"] + sigma * first["noise"]
    with torch.autocast(device.type, dtype, enabled=mixed):
        prediction = unet(noisy, timesteps, inputs["context"], added_cond_kwargs=added).sample
    loss = torch.nn.functional.mse_loss(prediction.float(), first["noise"])
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(adapters, 1.0)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    synchronize()
    return {"loss": loss.item(), "gradNorm": norm.item(), "seconds": time.perf_counter() - start}


def reply(value: dict) -> None:
    print(json.dumps(value), flush=True)


versions = f"PyTorch {torch.__version__}, diffusers {diffusers.__version__}, peft {peft.__version__}, Python {platform.python_version()}"
if on_gpu:
    versions += f", {torch.cuda.get_device_name()}"
reply({"about": versions, "adapters": sum(weight.numel() for weight in adapters)})
commands = {"step": step, "memory": memory, "calibrate": calibrate}
for line in sys.stdin:
    reply(commands[line.strip()]())
