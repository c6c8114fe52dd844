import { OPEN_CLIP_H } from './layouts.js'
import type { Family } from './model.js'
import { sd1 } from './sd1.js'

/**
 * Stable Diffusion 2.x: as 1.x, with linear projections around the transformers and OpenCLIP ViT-H/14, whose files in diffusers' layout end
 * with the last layer but one. Its attention is computed in f32, as every family's is: scores are never rounded to 16 bits.
 */
export const sd2: Family = {
  ...sd1,
  title: 'SD 2.x',
  matches: (unet) => sd1.matches(unet) && (unet.json.use_linear_projection === true || unet.json.cross_attention_dim === OPEN_CLIP_H),
  text: [{ ...sd1.text[0]!, padId: 0 }],
  metadata: (v) => ({
    baseModelVersion: v ? 'sd_v2_v' : 'sd_v2',
    v2: true,
    architecture: v ? 'stable-diffusion-v2-768-v/lora' : 'stable-diffusion-v2-512/lora',
    implementation: 'diffusers',
  }),
}
