"""The reference for whole models (families.py): text from ids, text encoders and convolutions that train, epsilon and v."""

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from pattern import pattern
from reference import ATTENTION, DEFAULT, Adapters, Case, Reference

# kohya-ss/sd-scripts:networks/lora.py: CLIPAttention and CLIPMLP; then ResnetBlock2D, Downsample2D and Upsample2D, where those that are no
# 3x3 kernels have the rank of the linear layers.
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
KERNELS = ["conv1", "conv2", "conv"]
CONVOLUTIONS = [*KERNELS, "time_emb_proj", "conv_shortcut"]
TIME_IDS = [[96, 128, 8, 0, 64, 96], [64, 64, 0, 4, 64, 64]]
SHORT = "a 3d emoji of a red apple on a white background"
LONG = ", ".join(f"{adjective} {noun}" for noun in ("apple", "octopus", "rocket", "castle", "fox") for adjective in (
    "red", "very large", "watercolor", "isometric", "neon", "low-poly", "hand drawn", "wooden", "golden", "translucent", "tiny", "old"))


@dataclass
class FamilyCase(Case):
    conv_rank: int = 1
    conv_alpha: float = 0.5
    # Of each text encoder.
    text_rates: tuple[float, ...] = (5e-4, 2.5e-4)


def chunks(tokenizer: CLIPTokenizer, text: str, length: int) -> torch.Tensor:
    """Ids [n, 77] of a text of up to 75 n tokens, each 75 wrapped again (kohya-ss/sd-scripts:library/strategy_base.py, _get_input_ids)."""
    ids = tokenizer(text, padding="max_length", truncation=True, max_length=length + 2, return_tensors="pt").input_ids[0]
    bos, eos, pad = ids[:1], tokenizer.eos_token_id, tokenizer.pad_token_id
    found = []
    for begin in range(1, length + 1, 75):
        chunk = torch.cat((bos, ids[begin : begin + 75], ids[-1:]))
        if pad != eos:
            if chunk[-2] not in (eos, pad):
                chunk[-1] = eos
            if chunk[1] == pad:
                chunk[1] = eos
        found.append(chunk)
    return torch.stack(found)


def joined(hidden: torch.Tensor) -> torch.Tensor:
    """Of chunks [n, 77, C] the first row, 75 of each and the last row: [1, 75 n + 2, C]."""
    return torch.cat((hidden[0, :1], *(chunk[1:-1] for chunk in hidden), hidden[-1, -1:]))[None]


class FamilyReference(Reference):
    case: FamilyCase

    def load(self) -> None:
        checkpoint, dtype = self.checkpoint, self.dtype
        self.is_xl = (checkpoint / "text_encoder_2").exists()
        names = ["text_encoder", "text_encoder_2"] if self.is_xl else ["text_encoder"]
        self.tokenizers = {name: CLIPTokenizer.from_pretrained(checkpoint / name.replace("text_encoder", "tokenizer")) for name in names}
        self.ids = {name: self.drawn_ids(name) for name in names}
        self.restore_text()
        self.vae = AutoencoderKL.from_pretrained(checkpoint / "vae", dtype=dtype).eval()
        self.scheduler = DDPMScheduler.from_pretrained(checkpoint / "scheduler")
        self.objective = self.scheduler.config.prediction_type
        # Whether text is encoded in each step.
        self.encodes = False

    def restore_text(self) -> None:
        """Without adapters."""
        kinds = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
        self.texts = {name: kinds[name].from_pretrained(self.checkpoint / name, dtype=self.dtype).eval() for name in self.ids}

    def drawn_ids(self, network: str) -> torch.Tensor:
        """Two texts, one of them as long as can be: [2, 77]."""
        tokenizer = self.tokenizers[network]
        bos, eos, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        words = (torch.from_numpy(pattern(f"ids of {network}", (2, 75)) / (2 * 3**0.5) + 0.5) * bos).long().clamp(0, bos - 1).tolist()
        return torch.tensor([[bos, *words[0], eos], [bos, *words[1][:11], eos, *[pad] * 64]])

    def networks(self) -> None:
        with torch.no_grad():
            self.encode_text()
            self.encode_captions()
            self.context, self.added = self.encoded(self.ids)
            if self.added:
                self.out["time_ids"] = self.added["time_ids"]
            self.predict("unet", self.unet(None))
            unet = self.unet(DEFAULT)
            self.predict("unet_lora", unet)
            own = self.objective
            for name, objective in (("epsilon", "epsilon"), ("v", "v_prediction")):
                self.objective = objective
                self.out[f"losses_{name}"] = torch.stack([self.losses(unet, step) for step in range(self.case.steps)])
            self.objective = own
            self.predict("unet_conv", self.unet([*DEFAULT, *CONVOLUTIONS]))
        self.one_step("attention", ATTENTION)
        self.one_step("default", DEFAULT)
        self.one_step("conv", [*DEFAULT, *CONVOLUTIONS], lambda path: path.split(".")[-2] in CONVOLUTIONS)
        self.step_with_text()
        unet = self.unet(DEFAULT)
        self.train(unet, [self.adapters(unet)], [self.case.learning_rate], keep=False)
        self.train_all()

    def encode_text(self) -> None:
        for network, text in self.texts.items():
            ids = self.ids[network]
            self.out[f"ids/{network}"] = ids
            # The rows of the first EOS of each, of all n * 77.
            ends = (ids == self.tokenizers[network].eos_token_id).int().argmax(1)
            self.out[f"ends/{network}"] = ends + 77 * torch.arange(len(ids))
            result = text(input_ids=ids, output_hidden_states=True)
            norm = self.final_norm(text)
            assert torch.equal(norm(result.hidden_states[-1]), result.last_hidden_state)
            self.out[f"text_skip_0/{network}"] = result.last_hidden_state
            self.out[f"text_skip_1/{network}"] = norm(result.hidden_states[-2])
            if self.is_xl:
                self.out[f"text_plain/{network}"] = result.hidden_states[-2]
            if network == "text_encoder_2":
                pooled = text.text_projection(result.last_hidden_state[torch.arange(len(ids)), ends])
                assert torch.equal(pooled, result.text_embeds)
                self.out["text_pooled"] = pooled

    def encode_captions(self) -> None:
        """As a training or a picture encodes them: a short one in 77 tokens, a long one in three chunks."""
        self.put_context("caption", {name: chunks(tokenizer, SHORT, 75) for name, tokenizer in self.tokenizers.items()})
        self.put_context("caption_225", {name: chunks(tokenizer, LONG, 225) for name, tokenizer in self.tokenizers.items()})

    def put_context(self, name: str, ids: dict[str, torch.Tensor]) -> None:
        context, added = self.encoded(ids)
        self.out[f"{name}/context"] = joined(context)
        if added:
            # Of the first chunk.
            self.out[f"{name}/pooled"] = added["text_embeds"][:1]

    def final_norm(self, text: torch.nn.Module) -> torch.nn.Module:
        return next(module for name, module in text.named_modules() if name.endswith("final_layer_norm"))

    def encoded(self, ids: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor] | None]:
        """Context and what SDXL adds, at kohya's clip skip 'none' (kohya-ss/sd-scripts:library/strategy_sd.py, strategy_sdxl.py)."""
        results = {name: text(input_ids=ids[name], output_hidden_states=True) for name, text in self.texts.items()}
        if not self.is_xl:
            return results["text_encoder"].last_hidden_state.to(self.dtype), None
        context = torch.cat([result.hidden_states[-2] for result in results.values()], -1)
        pooled = results["text_encoder_2"].text_embeds
        return context.to(self.dtype), {"text_embeds": pooled.to(self.dtype), "time_ids": torch.tensor(TIME_IDS)[: len(pooled)]}

    def condition(self, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor] | None]:
        if self.encodes:
            return self.encoded({name: ids if step % 2 == 0 else ids.flip(0) for name, ids in self.ids.items()})
        if step % 2 == 0:
            return self.context, self.added
        return self.context.flip(0), self.added and self.added | {"text_embeds": self.added["text_embeds"].flip(0)}

    def target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return noise if self.objective == "epsilon" else self.scheduler.get_velocity(latents, noise, timesteps)

    def lora(self, targets: list[str]) -> LoraConfig:
        config = super().lora(targets)
        config.rank_pattern = {name: self.case.conv_rank for name in KERNELS if name in targets}
        config.alpha_pattern = {name: self.case.conv_alpha for name in KERNELS if name in targets}
        return config

    def check_scale(self, path: str, scale: float) -> None:
        is_kernel = path.split(".")[-1] in KERNELS
        assert scale == (self.case.conv_alpha / self.case.conv_rank if is_kernel else self.case.alpha / self.case.rank), path

    def adapt_text(self) -> list[Adapters]:
        """Attaches adapters to the text encoders, named by network and by the path that files have, and encodes text in each step."""
        found = []
        for network, text in self.texts.items():
            inject_adapter_in_model(super().lora(TEXT), text)
            text.to(self.dtype)
            adapters = [(f"{network}.text_model.{name.removeprefix('text_model.')}", weight) for name, weight in self.adapters(text)]
            self.draw_adapters(adapters)
            found.append(adapters)
        self.encodes = True
        return found

    def step_with_text(self) -> None:
        """Gradients of the text encoders' adapters alone, beside those of the UNet's attention."""
        texts = self.adapt_text()
        losses = self.losses(self.unet(ATTENTION), 0)
        (losses.mean() * self.loss_scale).backward()
        self.out["losses_text"] = losses.detach()
        for adapters in texts:
            self.put_gradients("text", adapters)
        self.restore_text()
        self.encodes = False

    def train_all(self) -> None:
        """The UNet with its convolutions, and the text encoders at their own rates."""
        unet, texts = self.unet([*DEFAULT, *CONVOLUTIONS]), self.adapt_text()
        rates = [self.case.learning_rate, *self.case.text_rates[: len(texts)]]
        self.train(unet, [self.adapters(unet), *texts], rates, "_all")
        self.restore_text()
        self.encodes = False
