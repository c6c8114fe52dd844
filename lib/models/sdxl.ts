import type { NetworkConfig } from '../native.js'
import { pooledTextEncoderConfig, type UNetConfig } from './configs.js'
import { unetNames } from './ldm-names.js'
import type { Family } from './model.js'
import { sd1 } from './sd1.js'

const { unet, text_encoder, vae } = sd1.networks as Required<typeof sd1.networks>

/** Spells the paths of a UNet's modules as SGM does. */
function sgmSpelling(config: NetworkConfig): (path: string) => string {
  const names = unetNames(config as UNetConfig)
  return (path) => names.ldm(path) ?? path
}

/** The layer before the last, without the final norm. */
const PENULTIMATE = { skip: () => 1, norm: false }

/**
 * Stable Diffusion XL, and its distilled kin with fewer layers (SSD-1B, Vega): CLIP ViT-L/14 and OpenCLIP ViT-bigG/14, whose pooled text
 * the UNet takes beside sizes. `clipSkip` 1 and 2 mean the layer before the last alike: kohya and A1111 do not heed it for SDXL, and pages
 * of models recommend 2, which is what they do.
 */
export const sdxl: Family = {
  ...sd1,
  title: 'SDXL',
  matches: ({ json }) => json.addition_embed_type === 'text_time',
  networks: {
    unet: { ...unet!, lora: { prefix: 'lora_unet', spell: sgmSpelling } },
    text_encoder: { ...text_encoder!, lora: { prefix: 'lora_te1' } },
    text_encoder_2: { readConfig: pooledTextEncoderConfig, lora: { prefix: 'lora_te2' } },
    // It overflows in f16, and diffusers never computes it in 16 bits.
    vae: { ...vae!, f32: 'all' },
  },
  text: [
    { network: 'text_encoder', ...PENULTIMATE, pooled: false },
    { network: 'text_encoder_2', ...PENULTIMATE, pooled: true, padId: 0 },
  ],
  mostClipSkip: 2,
  scalingFactor: 0.13025,
  sampleSize: 128,
  metadata: () => ({
    baseModelVersion: 'sdxl_base_v1-0',
    v2: false,
    architecture: 'stable-diffusion-xl-v1-base/lora',
    implementation: 'https://github.com/Stability-AI/generative-models',
  }),
}
