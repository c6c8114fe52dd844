/** Finds the family of a model, and names the models that are of none. */
import { type LorafuseError, shown } from '../errors.js'
import { type ConfigReader, unsupported } from './configs.js'
import { OPEN_CLIP_G } from './layouts.js'
import type { Family, Parts } from './model.js'
import { NETWORKS } from './networks.js'
import { sd1 } from './sd1.js'
import { sd2 } from './sd2.js'
import { sdxl } from './sdxl.js'

/** The first that matches is a model's own. */
const families: Family[] = [sdxl, sd2, sd1]

/** Pipelines of diffusers for other models, by the beginnings of their names. */
const PIPELINES: [RegExp, string][] = [
  [/^StableDiffusion3/, 'Stable Diffusion 3'],
  [/^Flux/, 'FLUX'],
  [/^PixArt/, 'PixArt'],
  [/^Kandinsky/, 'Kandinsky'],
  [/^(StableCascade|Wuerstchen)/, 'Stable Cascade'],
  [/^HunyuanDiT/, 'Hunyuan-DiT'],
  [/^IF[A-Z]/, 'DeepFloyd IF'],
  [/^(AuraFlow|Lumina|Sana|Chroma|QwenImage|Kolors|HiDream|CogView|ZImage)/, '$1'],
]

/** Makes the error of a model that is of no known family. `name`: what it is. */
export function foreignModel(path: string, name: string): LorafuseError {
  return unsupported(`Expected a model of a known family in ${path} but received ${name}, which is not supported`)
}

/** Names the model that a pipeline of diffusers draws with, if it is of no known family. */
export function foreignPipeline(className: string): string | undefined {
  const found = PIPELINES.find(([pattern]) => pattern.test(className))
  return found && className.match(found[0])![0].replace(found[0], found[1])
}

/** What else than latents the first convolution of a UNet takes, by its channels. */
const CHANNELS: Record<number, string> = {
  5: 'Stable Diffusion 2 with depth',
  7: 'an upscaler',
  8: 'InstructPix2Pix',
  9: 'an inpainting model',
}

/** Names what a UNet belongs to that only looks like one of a known family. */
export function foreignUNet({ json }: ConfigReader): string | undefined {
  if (json.addition_embed_type === 'text_time' && json.cross_attention_dim === OPEN_CLIP_G) return 'the refiner of SDXL'
  if (json.encoder_hid_dim_type === 'text_proj') return 'DeepFloyd IF'
  if (typeof json.encoder_hid_dim_type === 'string') return 'Kandinsky'
  if (json.class_embed_type === 'projection') return 'Stable Diffusion 2 unCLIP'
  return typeof json.in_channels === 'number' ? CHANNELS[json.in_channels] : undefined
}

/** Finds out the family of a model, and whether all its networks are there. Throws `MODEL_UNSUPPORTED`, `MODEL_INCOMPLETE`. */
export function familyOf({ path, networks, missing }: Parts): Family {
  const unet = networks.unet
  if (!unet) throw missing('unet', NETWORKS.unet!.title)
  const foreign = foreignUNet(unet.config)
  if (foreign !== undefined) throw foreignModel(path, foreign)
  const family = families.find(({ matches }) => matches(unet.config))
  if (!family) throw foreignModel(path, `a UNet whose addition_embed_type is ${shown(unet.config.json.addition_embed_type)}`)
  for (const name of Object.keys(family.networks)) if (!networks[name]) throw missing(name, NETWORKS[name]!.title)
  return family
}
