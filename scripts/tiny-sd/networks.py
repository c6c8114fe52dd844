"""The networks of the small model and how they draw."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training import DEVICE, Average

# As SD1's.
SCHEDULE = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
SAMPLES = [
    *["a red apple on a white background", "a cat face on a sky blue background", "a grinning face on a purple background"],
    *["a airplane on a yellow background", "a hamburger on a green background", "a rocket on a black background"],
    *["a mushroom on a pink background", "a guitar on a teal background", "a fish on a orange background"],
    *["a house on a white background", "a bicycle on a red background", "a banana on a blue background"],
    *["a pizza on a brown background", "a octopus on a gray background", "a robot on a white background"],
    "a rose on a yellow background",
]


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(**SCHEDULE, set_alpha_to_one=False, steps_offset=1)


class Networks:
    def __init__(self, model: Path, vae: Path, state: Path, from_nothing: bool):
        """Weights of `state` where it exists, else those of `model`, or random ones of the same sizes."""
        self.tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
        self.vae = AutoencoderKL.from_pretrained(vae, torch_dtype=torch.float32).to(DEVICE).eval()
        if from_nothing:
            unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(model / "unet"))
            text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(model / "text_encoder")).float()
        else:
            unet = UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=torch.float32)
            text_encoder = CLIPTextModel.from_pretrained(model / "text_encoder", torch_dtype=torch.float32)
        self.unet = unet.to(DEVICE, memory_format=torch.channels_last).train()
        self.text_encoder = text_encoder.to(DEVICE).train()
        self.weights = [*self.unet.parameters(), *self.text_encoder.parameters()]
        self.average = Average(self.weights)
        self.step = 0
        self.optimizer_state: dict | None = None
        if state.exists():
            self.restore(torch.load(state, map_location=DEVICE))

    def state(self, optimizer: torch.optim.Optimizer) -> dict:
        return {"step": self.step, "opt": optimizer.state_dict(), "params": self.weights, "ema": self.average.values}

    @torch.no_grad()
    def restore(self, state: dict) -> None:
        self.step = state["step"]
        self.optimizer_state = state["opt"]
        for weight, mean, kept, kept_mean in zip(self.weights, self.average.values, state["params"], state["ema"]):
            weight.copy_(kept)
            mean.copy_(kept_mean)

    def encode(self, texts: list[str]) -> torch.Tensor:
        """[B, 77, 128]"""
        ids = self.tokenizer(texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
        return self.text_encoder(ids.to(DEVICE)).last_hidden_state

    @torch.no_grad()
    def draw(self, prompts: list[str], steps: int, guidance: float = 4.0, seed: int = 7) -> torch.Tensor:
        """[B, 3, S, S] with the averaged weights: DDIM and classifier-free guidance."""
        ddim = scheduler()
        ddim.set_timesteps(steps)
        latents = torch.randn(len(prompts), 4, 16, 16, generator=torch.Generator().manual_seed(seed)).to(DEVICE)
        with self.average.applied():
            self.unet.eval()
            self.text_encoder.eval()
            context = torch.cat([self.encode([""] * len(prompts)), self.encode(prompts)])
            for t in ddim.timesteps:
                without, having = self.unet(torch.cat([latents, latents]), t, context).sample.chunk(2)
                latents = ddim.step(without + guidance * (having - without), t, latents).prev_sample
            self.unet.train()
            self.text_encoder.train()
        return self.vae.decode(latents / self.vae.config.scaling_factor).sample
