import { textEncoderConfig, unetConfig, vaeConfig } from './configs.js'
import type { Family } from './model.js'

/** Stable Diffusion 1.x: a UNet, CLIP ViT-L/14 and a VAE. */
export const sd1: Family = {
  matches: (names) => !names.includes('text_encoder_2'),
  networks: {
    unet: { architecture: 'unet', title: 'the UNet', readConfig: unetConfig, loraPrefix: 'lora_unet' },
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
