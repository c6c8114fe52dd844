"""The reference computations: diffusers' networks, peft's LoRA, torch's AdamW. Tensors leave channels-last."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.upsampling import Upsample2D
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from transformers import CLIPTextModel

from pattern import pattern

# The leaf names of kohya's UNet targets (kohya-ss/sd-scripts:networks/lora.py, Transformer2DModel).
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
DEFAULT = [*ATTENTION, "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]


@dataclass
class Case:
    rank: int
    alpha: float
    # Standard deviation of the adapters' weights, both down and up.
    deviation: float
    # [n, h, w]
    latents: tuple[int, int, int]
    pixels: tuple[int, int, int]
    steps: int = 10
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    # Between the gradients' norms of the ten steps, so that some are clipped and some are not.
    max_grad_norm: float = 1.0
    # Not torch's 1e-8: the first steps of Adam are sign(g) where |g| ≫ epsilon, and the sign of a rounding error tells nothing.
    epsilon: float = 1e-6


# Names and weights.
Adapters = list[tuple[str, torch.nn.Parameter]]


def rows(weight: torch.Tensor) -> torch.Tensor:
    """An adapter's matrix [rank, in] or [out, rank], or of a kernel [k * k, rank, in]: its taps come first."""
    if weight.dim() == 4 and weight.shape[2] > 1:
        return weight.permute(2, 3, 0, 1).flatten(0, 1)
    return weight.flatten(1)


def from_rows(matrix: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The other way, in the shape of `weight`."""
    if matrix.dim() == 2:
        return matrix.view_as(weight)
    return matrix.unflatten(0, weight.shape[2:]).permute(2, 3, 0, 1)


def last(x: torch.Tensor) -> torch.Tensor:
    return x.detach().permute(0, 2, 3, 1).contiguous()


def sum_taps(unet: UNet2DConditionModel) -> None:
    """Nearest-neighbour upsampling and the 3x3 convolution after it become one transposed convolution, whose taps are sums of the 3x3: the
    same function. Of what is doubled, rows 2 - i and 3 - i of the kernel fall on one pixel."""
    for module in unet.modules():
        if not isinstance(module, Upsample2D):
            continue
        taps = module.conv.weight.data
        summed = torch.nn.ConvTranspose2d(taps.shape[1], taps.shape[0], 4, stride=2, padding=1).to(taps.dtype)
        for i in range(4):
            for j in range(4):
                rows, columns = slice(max(0, 2 - i), 4 - i), slice(max(0, 2 - j), 4 - j)
                summed.weight.data[:, :, i, j] = taps[:, :, rows, columns].sum((2, 3)).T
        summed.bias.data = module.conv.bias.data
        module.conv, module.use_conv_transpose = summed, True


class Reference:
    def __init__(self, checkpoint: Path, case: Case, dtype: torch.dtype, loss_scale: float | None = None):
        """`loss_scale`: everything but the VAE in mixed precision of fp16, as accelerate does it; the gradients are free of the scale again."""
        torch.set_num_threads(1)
        self.checkpoint, self.case, self.dtype = checkpoint, case, dtype
        self.mixed_precision, self.loss_scale = loss_scale is not None, loss_scale or 1
        self.added: dict[str, torch.Tensor] | None = None
        self.out: dict[str, torch.Tensor] = {}
        self.load()

    def load(self) -> None:
        checkpoint, dtype = self.checkpoint, self.dtype
        self.text = CLIPTextModel.from_pretrained(checkpoint / "text_encoder", dtype=dtype).eval()
        self.vae = AutoencoderKL.from_pretrained(checkpoint / "vae", dtype=dtype).eval()
        self.scheduler = DDPMScheduler.from_pretrained(checkpoint / "scheduler")

    def everything(self) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            self.autoencode()
        # Without its cache, which would keep rounded weights over an update.
        with torch.autocast("cpu", torch.float16, enabled=self.mixed_precision, cache_enabled=False):
            self.networks()
        return self.out

    def networks(self) -> None:
        with torch.no_grad():
            self.encode_text()
            self.predict("unet", self.unet(None))
            self.predict("unet_lora", self.unet(DEFAULT))
            self.predict("unet_bf16", self.unet(DEFAULT, torch.bfloat16))
        self.one_step("attention", ATTENTION)
        self.one_step("default", DEFAULT)
        unet = self.unet(DEFAULT)
        self.train(unet, [self.adapters(unet)], [self.case.learning_rate])

    def drawn(self, name: str, shape: tuple[int, ...], deviation: float = 1.0) -> torch.Tensor:
        """Named numbers, channels-last as the native side takes them, then channels-first where there are four dimensions."""
        value = torch.from_numpy(pattern(name, shape, deviation)).to(self.dtype)
        return value.permute(0, 3, 1, 2).contiguous() if len(shape) == 4 else value

    def encode_text(self) -> None:
        config = json.loads((self.checkpoint / "text_encoder/config.json").read_text())
        drawn = torch.from_numpy(pattern("ids", (2, 77)) / (2 * 3**0.5) + 0.5)
        ids = (drawn * config["vocab_size"]).long().clamp(0, config["vocab_size"] - 1)
        hidden = self.text(input_ids=ids, output_hidden_states=True)
        norm = next(m for n, m in self.text.named_modules() if n.endswith("final_layer_norm"))
        assert torch.equal(norm(hidden.hidden_states[-1]), hidden.last_hidden_state)
        self.out["text_ids"] = ids
        self.out["text_skip_0"] = hidden.last_hidden_state
        self.out["text_skip_1"] = norm(hidden.hidden_states[-2])
        self.context = hidden.last_hidden_state.float().to(self.dtype)

    def autoencode(self) -> None:
        n, height, width = self.case.pixels
        pixels = self.drawn("pixels", (n, height, width, 3), 0.5)
        latents = self.drawn("vae latents", (n, height // 8, width // 8, 4))
        self.out["vae_moments"] = last(self.vae.encode(pixels).latent_dist.parameters)
        self.out["vae_decoded"] = last(self.vae.decode(latents).sample)

    def unet(self, targets: list[str] | None, rounded: torch.dtype | None = None) -> UNet2DConditionModel:
        """`rounded`: frozen matrices and kernels keep that many bits, those that upsample as sums; arithmetic, norms and biases do not change."""
        unet = UNet2DConditionModel.from_pretrained(self.checkpoint / "unet", dtype=self.dtype).eval()
        if rounded:
            sum_taps(unet)
        for weight in unet.parameters() if rounded else []:
            if weight.dim() > 1:
                weight.data = weight.data.to(rounded).to(self.dtype)
        if targets is None:
            return unet
        unet.add_adapter(self.lora(targets))
        unet.to(self.dtype)
        self.draw_adapters(self.adapters(unet))
        return unet

    def lora(self, targets: list[str]) -> LoraConfig:
        return LoraConfig(r=self.case.rank, lora_alpha=self.case.alpha, target_modules=targets, init_lora_weights=False)

    @torch.no_grad()
    def draw_adapters(self, adapters: Adapters) -> None:
        for name, weight in adapters:
            weight.copy_(from_rows(self.drawn(name, rows(weight).shape, self.case.deviation), weight))

    def adapters(self, network: torch.nn.Module) -> Adapters:
        found = []
        for path, module in network.named_modules():
            if isinstance(module, LoraLayer):
                self.check_scale(path, module.scaling["default"])
                found += [(f"{path}.down", module.lora_A["default"].weight), (f"{path}.up", module.lora_B["default"].weight)]
        return found

    def check_scale(self, path: str, scale: float) -> None:
        assert scale == self.case.alpha / self.case.rank, path

    def predict(self, name: str, unet: UNet2DConditionModel) -> None:
        n, h, w = self.case.latents
        for timesteps in ([0, 999], [17, 500]):
            sample = self.drawn(f"latents {timesteps[0]}", (n, h, w, 4))
            output = unet(sample, torch.tensor(timesteps), self.context, added_cond_kwargs=self.added).sample
            self.out[f"{name}/{timesteps[0]},{timesteps[1]}"] = last(output)

    def losses(self, unet: UNet2DConditionModel, step: int) -> torch.Tensor:
        """Mean squared error of each sample [n] at inputs drawn for this step."""
        n, h, w = self.case.latents
        latents = self.drawn(f"latents of step {step}", (n, h, w, 4))
        noise = self.drawn(f"noise of step {step}", (n, h, w, 4))
        timesteps = torch.tensor([(71 + 389 * (2 * step + i)) % 1000 for i in range(n)])
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        context, added = self.condition(step)
        cumulative = self.scheduler.alphas_cumprod[timesteps]
        self.out[f"timesteps/{step}"] = timesteps
        self.out[f"coefficients/{step}"] = torch.stack([cumulative.sqrt(), (1 - cumulative).sqrt()], 1)
        prediction = unet(noisy, timesteps, context, added_cond_kwargs=added).sample
        return ((prediction.to(self.dtype) - self.target(latents, noise, timesteps)) ** 2).mean(dim=(1, 2, 3))

    def condition(self, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor] | None]:
        """The text of a step, of the two samples in the other order at odd ones, and what SDXL adds."""
        return self.context if step % 2 == 0 else self.context.flip(0), self.added

    def target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return noise

    def one_step(self, name: str, targets: list[str], kept: Callable[[str], bool] = lambda path: True) -> None:
        """`kept`: of which adapters the gradients are kept."""
        unet = self.unet(targets)
        losses = self.losses(unet, 0)
        (losses.mean() * self.loss_scale).backward()
        self.out[f"losses_{name}"] = losses.detach()
        self.put_gradients(name, [(path, weight) for path, weight in self.adapters(unet) if kept(path)])

    def put_gradients(self, name: str, adapters: Adapters) -> None:
        """Of all that have one: an adapter on a layer that nothing reads has none."""
        for path, weight in adapters:
            if weight.grad is not None:
                self.out[f"gradients_{name}/{path}"] = rows(weight.grad) / self.loss_scale

    def train(self, unet: UNet2DConditionModel, groups: list[Adapters], rates: list[float], suffix: str = "", keep: bool = True) -> None:
        """Clip, AdamW; losses [steps, n] and the gradients' norms [steps] before clipping, then, with `keep`, the adapters."""
        case = self.case
        weights = [weight for group in groups for _, weight in group]
        parameters = [{"params": [weight for _, weight in group], "lr": rate} for group, rate in zip(groups, rates, strict=True)]
        optimizer = torch.optim.AdamW(parameters, eps=case.epsilon, weight_decay=case.weight_decay)
        losses, norms = [], []
        for step in range(case.steps):
            loss = self.losses(unet, step)
            (loss.mean() * self.loss_scale).backward()
            for weight in weights:
                if weight.grad is not None:
                    weight.grad /= self.loss_scale
            norms.append(torch.nn.utils.clip_grad_norm_(weights, case.max_grad_norm).detach())
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
        self.out[f"training_losses{suffix}"] = torch.stack(losses)
        self.out[f"training_norms{suffix}"] = torch.stack(norms)
        for path, weight in (adapter for group in groups for adapter in group if keep):
            self.out[f"trained{suffix}/{path}"] = rows(weight.detach())


class ReferenceXL(Reference):
    """SDXL's UNet alone: text states, pooled text and time ids are drawn."""

    def load(self) -> None:
        config = json.loads((self.checkpoint / "unet/config.json").read_text())
        n, ids = self.case.latents[0], torch.tensor([[96, 128, 8, 0, 64, 96], [64, 64, 0, 4, 64, 64]])
        self.scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        self.context = self.drawn("context", (n, 7, config["cross_attention_dim"]))
        pooled = config["projection_class_embeddings_input_dim"] - ids.shape[1] * config["addition_time_embed_dim"]
        self.added = {"text_embeds": self.drawn("pooled", (n, pooled)), "time_ids": ids}

    def everything(self) -> dict[str, torch.Tensor]:
        self.out |= {"context": self.context, "pooled": self.added["text_embeds"], "time_ids": self.added["time_ids"]}
        with torch.autocast("cpu", torch.float16, enabled=self.mixed_precision, cache_enabled=False):
            with torch.no_grad():
                unet = self.unet(DEFAULT)
                self.predict("unet_lora", unet)
                losses = torch.stack([self.losses(unet, step) for step in range(self.case.steps)])
            self.one_step("default", DEFAULT)
        # Of all steps: two losses may be near by luck.
        self.out["losses_default"] = losses
        return self.out
