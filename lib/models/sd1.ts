import { type ConfigReader, textEncoderConfig, type UNetConfig, unetConfig, unsupported, vaeConfig } from './configs.js'
import type { Family } from './model.js'

/** Reads the UNet's config. Throws `MODEL_UNSUPPORTED` for that of Stable Diffusion 2.x, which differs in few keys. */
function readUNet(config: ConfigReader): UNetConfig {
  if (config.json.cross_attention_dim === 1024) {
    throw unsupported(`Expected Stable Diffusion 1.x but received 2.x: cross_attention_dim is 1024 in ${config.path}`)
  }
  config.only('use_linear_projection', false)
  return unetConfig(config)
}

/** Stable Diffusion 1.x: a UNet, CLIP ViT-L/14 and a VAE. */
export const sd1: Family = {
  matches: (names) => !['text_encoder_2', 'transformer', 'prior'].some((part) => names.includes(part)),
  networks: {
    unet: { architecture: 'unet', title: 'the UNet', readConfig: readUNet, loraPrefix: 'lora_unet' },
    text_encoder: {
      architecture: 'clip',
      title: 'the text encoder',
      readConfig: textEncoderConfig,
      tokenizer: 'tokenizer',
      loraPrefix: 'lora_te',
    },
    // VAEs run in f32 in every family, as that of SDXL overflows in f16.
    vae: { architecture: 'vae', title: 'the VAE', readConfig: vaeConfig, f32: true },
  },
  trained: 'unet',
  vae: 'vae',
  text: { encoder: 'text_encoder', droppedLayers: (clipSkip) => clipSkip - 1 },
  predictionTypes: ['epsilon'],
  scalingFactor: 0.18215,
  shiftFactor: 0,
  metadata: { baseModelVersion: 'sd_v1', v2: false, architecture: 'stable-diffusion-v1/lora' },
}
