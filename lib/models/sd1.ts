import { textEncoderConfig, unetConfig, vaeConfig } from './configs.js'
import type { Family } from './model.js'

/** Stable Diffusion 1.x: a UNet, CLIP ViT-L/14 and a VAE. */
export const sd1: Family = {
  title: 'SD 1.x',
  matches: ({ json }) => json.addition_embed_type == null,
  networks: {
    unet: { readConfig: unetConfig, lora: { prefix: 'lora_unet' } },
    text_encoder: { readConfig: textEncoderConfig, lora: { prefix: 'lora_te' } },
    // On a GPU f32 throughout, as it takes little of the time.
    vae: { readConfig: vaeConfig, f32: 'activations' },
  },
  trained: 'unet',
  vae: 'vae',
  text: [{ network: 'text_encoder', skip: (clipSkip) => clipSkip - 1, norm: true, pooled: false }],
  predictionTypes: ['epsilon', 'v_prediction'],
  scalingFactor: 0.18215,
  shiftFactor: 0,
  sampleSize: 64,
  metadata: (v) => ({
    baseModelVersion: v ? 'sd_v1_v' : 'sd_v1',
    v2: false,
    architecture: 'stable-diffusion-v1/lora',
    implementation: 'diffusers',
  }),
}
