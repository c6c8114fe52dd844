/** Reads a Stable Diffusion 1.x folder in diffusers' layout: every size from its configs, weights as places in files. */
import { readdir, readFile, stat } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import type { Computation } from '../device.js'
import { LorafuseError } from '../errors.js'
import { hashFiles } from '../files/hashes.js'
import { readHeader } from '../files/safetensors.js'
import {
  type Component,
  native,
  type Session,
  type TextEncoderConfig,
  type UNetConfig,
  type VaeConfig,
  type WeightEntry,
  type WeightFile,
} from '../native.js'
import {
  Config,
  type Json,
  type SchedulerConfig,
  schedulerConfig,
  textEncoderConfig,
  unetConfig,
  unsupported,
  vaeConfig,
} from './configs.js'

export interface Checkpoint {
  folder: string
  /** The folder's own name. */
  name: string
  family: 'sd1'
  unet: Component<UNetConfig>
  textEncoder: Component<TextEncoderConfig>
  vae: Component<VaeConfig>
  tokenizerFolder: string
  scheduler: SchedulerConfig
  /** Pixels per latent, each way. */
  factor: number
  /** Sides of pictures, in pixels, are multiples of it: the UNet halves the latents at each level. */
  multiple: number
  /** The UNet's `sample_size` in pixels: the size it was trained at. */
  sampleSize: { width: number; height: number }
  /** Latents = posterior sample × this. */
  scalingFactor: number
}

async function exists(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined)) !== undefined
}

function incomplete(what: string, where: string): LorafuseError {
  return new LorafuseError(
    'MODEL_INCOMPLETE',
    `Expected ${what} at ${where} but received none; copy the whole diffusers folder of the model`,
  )
}

async function readConfig(path: string, what: string): Promise<Config> {
  const text = await readFile(path, 'utf8').catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'ENOENT' || cause.code === 'ENOTDIR') throw incomplete(`${what}'s config`, path)
    throw cause
  })
  try {
    const json: unknown = JSON.parse(text)
    if (typeof json === 'object' && json !== null && !Array.isArray(json)) return new Config(path, json as Json)
  } catch {}
  throw new LorafuseError('MODEL_INVALID', `Expected a JSON object for ${path} but received something else`)
}

/** The weight files of a component: one, or shards listed by an index; full precision before the `fp16` variant. */
async function weightPaths(folder: string, stem: string, what: string): Promise<string[]> {
  for (const variant of ['', '.fp16']) {
    const single = join(folder, `${stem}${variant}.safetensors`)
    if (await exists(single)) return [single]
    const index = join(folder, `${stem}.safetensors.index${variant}.json`)
    if (!(await exists(index))) continue
    const shards = Object.values((await readConfig(index, what)).json.weight_map ?? {}).map(String)
    if (shards.length === 0) throw new LorafuseError('MODEL_INVALID', `Expected a weight_map in ${index} but received none`)
    const paths = [...new Set(shards)].sort().map((shard) => join(folder, basename(shard)))
    for (const path of paths) if (!(await exists(path))) throw incomplete(`${what}'s weights`, path)
    return paths
  }
  const pickles = (await readdir(folder)).filter((name) => /\.(bin|ckpt|pt)$/.test(name))
  const hint = pickles.length > 0 ? ` (${pickles[0]} is a pickle, which may run code: save the model as safetensors)` : ''
  throw incomplete(`${what}'s weights`, `${join(folder, stem)}.safetensors${hint}`)
}

/** Integer tensors (`position_ids`) are left out; 8- and 64-bit floats are refused. */
async function readWeights(folder: string, stem: string, what: string, rename: (name: string) => string): Promise<WeightFile[]> {
  const files: WeightFile[] = []
  for (const path of await weightPaths(folder, stem, what)) {
    const tensors: WeightEntry[] = []
    for (const { name, dtype, shape, offset } of (await readHeader(path)).tensors) {
      if (dtype === 'F32' || dtype === 'F16' || dtype === 'BF16') tensors.push({ name: rename(name), dtype, shape, offset })
      else if (/^[FC]/.test(dtype)) throw unsupported(`Expected F32, F16 or BF16 for tensor ${name} in ${path} but received ${dtype}`)
    }
    files.push({ path, tensors })
  }
  return files
}

/** Old VAE files name attention as its first version did (huggingface/diffusers:src/diffusers/models/modeling_utils.py). */
function renameVae(name: string): string {
  const old: Record<string, string> = { query: 'to_q', key: 'to_k', value: 'to_v', proj_attn: 'to_out.0' }
  return name.replace(/(\.attentions\.\d+\.)(query|key|value|proj_attn)\./, (_, path: string, layer: string) => `${path}${old[layer]}.`)
}

/** transformers 5 drops the prefix that every earlier file, and kohya's names, have. */
function renameTextEncoder(name: string): string {
  return /^(embeddings|encoder|final_layer_norm)\./.test(name) ? `text_model.${name}` : name
}

async function checkFolder(folder: string): Promise<void> {
  const found = await stat(folder).catch(() => undefined)
  if (!found)
    throw new LorafuseError('MODEL_NOT_FOUND', `Expected a model folder at ${folder} but received nothing: there is no such folder`)
  if (!found.isDirectory()) throw unsupported(`Expected a diffusers folder for model but received the file ${folder}`)
  if (await exists(join(folder, 'text_encoder_2')))
    throw unsupported(`Expected one text encoder in ${folder} but received two, as SDXL has`)
  for (const name of ['unet', 'text_encoder', 'vae', 'tokenizer', 'scheduler']) {
    if (!(await exists(join(folder, name)))) throw incomplete(`the ${name.replace('_', ' ')}`, join(folder, name))
  }
}

function checkAgreement(folder: string, unet: UNetConfig, text: TextEncoderConfig, vae: VaeConfig): void {
  const widths: [string, number, string, number][] = [
    ["the UNet's cross_attention_dim", unet.crossAttentionDim, "the text encoder's hidden_size", text.hiddenSize],
    ["the UNet's in_channels", unet.inChannels, "the VAE's latent_channels", vae.latentChannels],
    ["the UNet's out_channels", unet.outChannels, "the VAE's latent_channels", vae.latentChannels],
  ]
  for (const [name, value, otherName, other] of widths) {
    if (value !== other) throw unsupported(`Expected ${otherName}, ${other}, for ${name} in ${folder} but received ${value}`)
  }
}

/**
 * Reads and checks a model's configs and weight headers; no weights. Throws `MODEL_NOT_FOUND`, `MODEL_INCOMPLETE` (which part, where),
 * `MODEL_INVALID` (a config), `UNSUPPORTED_MODEL`, `SAFETENSORS_INVALID`.
 */
export async function readCheckpoint(path: string): Promise<Checkpoint> {
  const folder = resolve(path)
  await checkFolder(folder)
  const config = (name: string, what: string, file = 'config.json') => readConfig(join(folder, name, file), what)
  const unetJson = await config('unet', 'the UNet')
  const unet = unetConfig(unetJson)
  const text = textEncoderConfig(await config('text_encoder', 'the text encoder'))
  const vaeJson = await config('vae', 'the VAE')
  const vae = vaeConfig(vaeJson)
  const scheduler = schedulerConfig(await config('scheduler', 'the scheduler', 'scheduler_config.json'))
  checkAgreement(folder, unet, text, vae)
  const same = (name: string) => name
  const diffusers = 'diffusion_pytorch_model'
  const [unetFiles, textFiles, vaeFiles] = await Promise.all([
    readWeights(join(folder, 'unet'), diffusers, 'the UNet', same),
    readWeights(join(folder, 'text_encoder'), 'model', 'the text encoder', renameTextEncoder),
    readWeights(join(folder, 'vae'), diffusers, 'the VAE', renameVae),
  ])
  const factor = 2 ** (vae.blockOutChannels.length - 1)
  const sample = unetJson.json.sample_size ?? 64
  const side = (axis: number) => Number(Array.isArray(sample) ? sample[axis] : sample) * factor
  return {
    folder,
    name: basename(folder),
    family: 'sd1',
    unet: { config: unet, files: unetFiles },
    textEncoder: { config: text, files: textFiles },
    vae: { config: vae, files: vaeFiles },
    tokenizerFolder: join(folder, 'tokenizer'),
    scheduler,
    factor,
    multiple: factor * 2 ** (unet.blockOutChannels.length - 1),
    sampleSize: { width: side(1), height: side(0) },
    scalingFactor: vaeJson.number('scaling_factor', 0.18215),
  }
}

/** Opens the networks of a model, nothing of them read yet. Throws `NATIVE_NOT_FOUND`, and what mapping the files throws. */
export function openSession({ unet, textEncoder, vae }: Checkpoint, options: Computation): Session {
  return new (native().Session)({ ...options, unet, textEncoder, vae })
}

/** sha256 of the UNet's weight files: what a training state was trained on. Reads them whole. */
export function hashUnet(checkpoint: Checkpoint): Promise<string> {
  return hashFiles(checkpoint.unet.files.map(({ path }) => path))
}
