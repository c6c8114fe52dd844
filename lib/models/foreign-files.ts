/** Names what a weight file holds that is no checkpoint of a known family, by its keys. */

/** Keys that only such a file has; the first that is found names it. */
const KEYS: [RegExp, string][] = [
  [/(^|[._])lora_(up|down|mid|A|B)\b|\.lora(_linear_layer)?\.(up|down)\.|\.lora_[AB]\.|\.(hada|lokr|oft)_/, 'a LoRA'],
  [/^(control_model|controlnet_|input_hint_block|controlnet)/, 'a ControlNet'],
  [/^(adapter\.body|body\.\d+\.(in_conv|block1))/, 'a T2I-Adapter'],
  [/^(image_proj|ip_adapter)\./, 'an IP-Adapter'],
  [/^(emb_params|string_to_param|clip_[lg])$/, 'a textual inversion'],
  [/motion_modules?\./, 'a motion module of AnimateDiff'],
  [/^(model\.)?(params_ema\.|RRDB|conv_first\.)|\.rdb\d\./i, 'an upscaler of pictures'],
  [/joint_blocks\.0\./, 'Stable Diffusion 3'],
  [/distilled_guidance_layer\./, 'Chroma'],
  [/double_blocks\.0\.img_attn|single_transformer_blocks\.0\./, 'FLUX'],
  [/double_layers\.0\./, 'AuraFlow'],
  [/clip_txt_mapper|effnet_mapper|clf\.1\.weight/, 'Stable Cascade'],
  [/mlp_t5\.|style_embedder|skip_linear\./, 'Hunyuan-DiT'],
  [/cap_embedder\./, 'Lumina'],
  [/adaln_single\./, 'PixArt'],
  [/patchify_proj\./, 'LTX-Video'],
  [/transformer_blocks\.0\.img_mod\./, 'Qwen-Image'],
  [/blocks\.0\.cross_attn\.norm_k/, 'Wan'],
  [/time_stack|time_mix_blocks|temporal_transformer_block/, 'Stable Video Diffusion'],
  [/cc_projection\./, 'Zero123'],
  [/time_embed\.cond_proj|time_embedding\.cond_proj/, 'a latent consistency model (LCM)'],
  [/^edm_(mean|std)$|^edm_vpred\./, 'a model with the noise of EDM, such as Playground 2.5'],
  [/depth_model\./, 'Stable Diffusion 2 with depth'],
  [/noise_augmentor\.|embedder\.model\.visual\./, 'Stable Diffusion 2 unCLIP'],
  [/low_scale_model\./, 'an upscaler'],
]

/** What is left to be told once no UNet was found. */
const PARTS: [RegExp, string][] = [
  [/^model\.diffusion_model\./, 'a model of another architecture'],
  [/^(down_blocks|mid_block|conv_in)\./, 'a UNet alone, a part of a diffusers folder, which is needed as a whole'],
  [/^(first_stage_model\.)?(encoder\.(down|down_blocks)|decoder\.(up|up_blocks))\./, 'a VAE alone'],
  [/^(text_model|cond_stage_model|conditioner|transformer\.resblocks|embeddings|encoder\.(layers|block))\b/, 'a text encoder alone'],
]

function find(table: [RegExp, string][], names: string[]): string | undefined {
  return table.find(([pattern]) => names.some((name) => pattern.test(name)))?.[1]
}

/** Names what these are the keys of; undefined where nothing of them is foreign. */
export function foreignKind(names: string[]): string | undefined {
  return find(KEYS, names)
}

/** Names what the keys of a file without a UNet are. */
export function kindWithoutUNet(names: string[]): string {
  return find(PARTS, names) ?? (names.length === 0 ? 'a file without tensors' : 'weights of another kind')
}
