"""Golden: pictures of small random models (families.py), whole, by diffusers' networks and schedulers, checked against in
test/lib/draw/pictures.test.ts: what the UNet gets at each step, the latents at the end, and a picture.

The schedulers go through k-diffusion's levels of noise, as A1111: timesteps evenly, 999 and 0 included, or Karras's sigmas, whose timesteps the
UNet gets unrounded. The numbers drawn are those of lib/random.ts. In f64, but that schedulers round latents to f32; in f32 all is diffusers' own.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, UNet2DConditionModel
from diffusers.schedulers import scheduling_euler_ancestral_discrete as ancestral
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

from families import BETAS, FAMILIES, build_family
from make import BUILT, FIXTURES, errors
from philox import normal

KARRAS = "DPM++ 2M Karras"
SAMPLERS = ["Euler", "Euler a", "DPM++ 2M", KARRAS]


@dataclass(frozen=True)
class Case:
    prompt: str = "a 3d emoji of a red apple"
    negative: str = "blue"
    # 999 divides by one less: no timestep of the first three lies between two.
    steps: int = 10
    cfg: float = 4.0
    seed: int = 7
    width: int = 64
    height: int = 64


def last(x: torch.Tensor) -> torch.Tensor:
    return x[0].permute(1, 2, 0)


class Artist:
    def __init__(self, folder: Path, case: Case, dtype: torch.dtype):
        self.case, self.dtype = case, dtype
        self.unet = UNet2DConditionModel.from_pretrained(folder / "unet", dtype=dtype).eval()
        self.vae = AutoencoderKL.from_pretrained(folder / "vae", dtype=dtype).eval()
        self.prediction = json.loads((folder / "scheduler/scheduler_config.json").read_text())["prediction_type"]
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        text = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=dtype).eval()
        ids = tokenizer([case.negative, case.prompt], padding="max_length", max_length=77, return_tensors="pt").input_ids
        self.context = text(input_ids=ids).last_hidden_state

    def noise(self, stream: str, step: int = 0) -> torch.Tensor:
        shape = (self.case.height // 8, self.case.width // 8, 4)
        drawn = torch.from_numpy(normal(self.case.seed, stream, int(np.prod(shape)), step))
        return drawn.view(shape).permute(2, 0, 1)[None].to(self.dtype)

    def scheduler(self, sampler: str):
        if sampler.startswith("DPM++"):
            scheduler = DPMSolverMultistepScheduler(
                **BETAS, prediction_type=self.prediction, use_karras_sigmas=sampler == KARRAS, final_sigmas_type="zero"
            )
        else:
            kind = EulerAncestralDiscreteScheduler if sampler == "Euler a" else EulerDiscreteScheduler
            scheduler = kind(**BETAS, prediction_type=self.prediction, timestep_spacing="linspace")
        even = np.linspace(999, 0, self.case.steps)
        if sampler == "DPM++ 2M":
            scheduler.set_timesteps(timesteps=even)
        else:
            scheduler.set_timesteps(self.case.steps)
        logs = log_sigmas()
        exact = np.exp(logs[even.astype(int)])
        if sampler == KARRAS:
            low, high = np.exp(logs[0] / 7), np.exp(logs[-1] / 7)
            exact = np.linspace(high, low, self.case.steps) ** 7
        given = [scheduler._sigma_to_t(sigma, logs) if sampler == KARRAS else t for sigma, t in zip(exact, even, strict=True)]
        if self.dtype == torch.float64:
            assert np.allclose(scheduler.sigmas[:-1].double().numpy(), exact, rtol=1e-4)
            scheduler.sigmas = torch.from_numpy(np.append(exact, 0.0))
        return scheduler, torch.tensor(np.array(given, dtype=float).ravel(), dtype=self.dtype)

    def draw(self, sampler: str) -> dict[str, torch.Tensor]:
        scheduler, timesteps = self.scheduler(sampler)
        # DPM-Solver's latents are those that the UNet gets, the others' are x0 + sigma * noise.
        inner = sampler.startswith("DPM++")
        sigma = scheduler.sigmas[0]
        latents = self.noise("latents") * sigma / ((sigma**2 + 1) ** 0.5 if inner else 1)
        inputs = []
        for i, (t, given) in enumerate(zip(scheduler.timesteps, timesteps, strict=True)):
            scaled = scheduler.scale_model_input(latents, t).to(self.dtype)
            inputs.append(last(scaled))
            without, within = self.unet(scaled.expand(2, -1, -1, -1), given, encoder_hidden_states=self.context).sample.chunk(2)
            ancestral.randn_tensor = lambda *_, i=i, **__: self.noise("ancestral", i)
            latents = scheduler.step(without + self.case.cfg * (within - without), t, latents).prev_sample.to(self.dtype)
        image = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return {"timesteps": timesteps, "inputs": torch.stack(inputs), "latents": last(latents), "image": last(image)}

    @torch.no_grad()
    def everything(self) -> dict[str, torch.Tensor]:
        drawn = {sampler: self.draw(sampler) for sampler in SAMPLERS}
        return {f"{name}/{sampler}": value for sampler, values in drawn.items() for name, value in values.items()}


def log_sigmas() -> np.ndarray:
    betas = np.linspace(BETAS["beta_start"] ** 0.5, BETAS["beta_end"] ** 0.5, BETAS["num_train_timesteps"]) ** 2
    alphas = np.cumprod(1 - betas)
    return np.log((1 - alphas) / alphas) / 2


def write(name: str) -> None:
    built, case = BUILT / name, Case()
    build_family(built, FAMILIES[name])
    truth = Artist(built, case, torch.float64).everything()
    naive = errors(Artist(built, case, torch.float32).everything(), truth)
    # One picture is enough.
    kept = {key: value.float().contiguous() for key, value in truth.items() if not key.startswith("image/") or key == "image/Euler a"}
    unet = (built / "unet/diffusion_pytorch_model.safetensors").read_bytes()
    about = {"unet_sha256": hashlib.sha256(unet).hexdigest(), "case": asdict(case), "naive_f32_error": naive, "naive_f16_error": {}}
    folder = FIXTURES / f"{name}-pictures"
    folder.mkdir(exist_ok=True)
    save_file(kept, folder / "golden.safetensors", {"golden": json.dumps(about)})
    print(folder.name, (folder / "golden.safetensors").stat().st_size, "bytes", naive)


if __name__ == "__main__":
    for model in ("golden-sd1-model", "golden-sd2"):
        write(model)
