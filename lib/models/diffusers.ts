/** Reads a model in diffusers' folder layout: sizes from its configs, weights as places in its files. */
import { readdir, readFile, stat } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { LorafuseError } from '../errors.js'
import { parseRecord } from '../files/json.js'
import { readHeader } from '../files/safetensors.js'
import type { Network, WeightEntry, WeightFile } from '../native.js'
import { ConfigReader, schedulerConfig, type TextEncoderConfig, type UNetConfig, unsupported, type VaeConfig } from './configs.js'
import { type Family, lazyHashes, type Model } from './model.js'
import { ourName } from './names.js'
import { sd1 } from './sd1.js'
import { loadTokenizer, type Tokenizer } from './tokenizer.js'

const families: Family[] = [sd1]

async function exists(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined)) !== undefined
}

function incomplete(what: string, where: string): LorafuseError {
  return new LorafuseError(
    'MODEL_INCOMPLETE',
    `Expected ${what} at ${where} but received none; copy the whole diffusers folder of the model`,
  )
}

async function readJson(path: string, what: string): Promise<ConfigReader> {
  const text = await readFile(path, 'utf8').catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'ENOENT' || cause.code === 'ENOTDIR') throw incomplete(`${what}'s config`, path)
    throw cause
  })
  const json = parseRecord(text)
  if (!json) throw new LorafuseError('MODEL_INVALID', `Expected a JSON object for ${path} but received something else`)
  return new ConfigReader(path, json)
}

/** Finds a network's weight files: one, or the shards that an index lists; the `fp16` variant only if there is no other. */
async function weightPaths(folder: string, stem: string, what: string): Promise<string[]> {
  for (const variant of ['', '.fp16']) {
    const single = join(folder, `${stem}${variant}.safetensors`)
    if (await exists(single)) return [single]
    const index = join(folder, `${stem}.safetensors.index${variant}.json`)
    if (!(await exists(index))) continue
    const shards = Object.values((await readJson(index, what)).json.weight_map ?? {}).map(String)
    if (shards.length === 0) throw new LorafuseError('MODEL_INVALID', `Expected a weight_map in ${index} but received none`)
    const paths = [...new Set(shards)].sort().map((shard) => join(folder, basename(shard)))
    for (const path of paths) if (!(await exists(path))) throw incomplete(`${what}'s weights`, path)
    return paths
  }
  const pickles = (await readdir(folder)).filter((name) => /\.(bin|ckpt|pt)$/.test(name))
  const hint = pickles.length > 0 ? ` (${pickles[0]} is a pickle, which may run code: save the model as safetensors)` : ''
  throw incomplete(`${what}'s weights`, `${join(folder, stem)}.safetensors${hint}`)
}

/** Reads the headers of a network's weights. Leaves out integer tensors (`position_ids`), refuses 8- and 64-bit floats. */
async function readWeights(folder: string, architecture: Network['architecture'], what: string): Promise<WeightFile[]> {
  const stem = architecture === 'clip' ? 'model' : 'diffusion_pytorch_model'
  const files: WeightFile[] = []
  for (const path of await weightPaths(folder, stem, what)) {
    const tensors: WeightEntry[] = []
    for (const { name, dtype, shape, offset } of (await readHeader(path)).tensors) {
      if (dtype === 'F32' || dtype === 'F16' || dtype === 'BF16') tensors.push({ name: ourName(architecture, name), dtype, shape, offset })
      else if (/^[FC]/.test(dtype)) throw unsupported(`Expected F32, F16 or BF16 for tensor ${name} in ${path} but received ${dtype}`)
    }
    files.push({ path, tensors })
  }
  return files
}

/** Finds out which family the model in a folder belongs to, and whether all its parts are there. */
async function familyOf(folder: string): Promise<Family> {
  const found = await stat(folder).catch(() => undefined)
  if (!found)
    throw new LorafuseError('MODEL_NOT_FOUND', `Expected a model folder at ${folder} but received nothing: there is no such folder`)
  if (!found.isDirectory()) throw unsupported(`Expected a diffusers folder for model but received the file ${folder}`)
  const names = await readdir(folder)
  const family = families.find(({ matches }) => matches(names))
  if (!family) throw unsupported(`Expected a model of a known family in ${folder} but received another, such as SDXL`)
  const tokenizers = Object.values(family.networks).flatMap(({ tokenizer = [] }) => tokenizer)
  for (const name of [...Object.keys(family.networks), ...tokenizers, 'scheduler']) {
    if (!names.includes(name)) throw incomplete(`the ${name.replace('_', ' ')}`, join(folder, name))
  }
  return family
}

function checkAgreement(folder: string, unet: UNetConfig, text: TextEncoderConfig, vae: VaeConfig): void {
  const widths: [string, number, string, number][] = [
    ["the UNet's cross_attention_dim", unet.cross_attention_dim, "the text encoder's hidden_size", text.hidden_size],
    ["the UNet's in_channels", unet.in_channels, "the VAE's latent_channels", vae.latent_channels],
    ["the UNet's out_channels", unet.out_channels, "the VAE's latent_channels", vae.latent_channels],
  ]
  for (const [name, value, otherName, other] of widths) {
    if (value !== other) throw unsupported(`Expected ${otherName}, ${other}, for ${name} in ${folder} but received ${value}`)
  }
}

/**
 * Reads and checks a model's configs, tokenizer and weight headers, but no weights. Throws `MODEL_NOT_FOUND`, `MODEL_INCOMPLETE` (which
 * part, where), `MODEL_INVALID` (a config), `MODEL_UNSUPPORTED`, `TOKENIZER_INVALID`, `SAFETENSORS_INVALID`.
 */
export async function readModel(path: string): Promise<Model> {
  const folder = resolve(path)
  const family = await familyOf(folder)
  const networks: Record<string, Network> = {}
  const readers: Record<string, ConfigReader> = {}
  const tokenizers: Record<string, Tokenizer> = {}
  for (const [name, { title, architecture, readConfig, tokenizer, f32 = false }] of Object.entries(family.networks)) {
    const reader = await readJson(join(folder, name, 'config.json'), title)
    const config = readConfig(reader)
    networks[name] = { architecture, config, files: await readWeights(join(folder, name), architecture, title), f32 }
    readers[name] = reader
    if (tokenizer) tokenizers[name] = await loadTokenizer(join(folder, tokenizer))
  }
  const unet = networks[family.trained]!.config as UNetConfig
  const text = networks[family.text.encoder]!.config as TextEncoderConfig
  const vae = networks[family.vae]!.config as VaeConfig
  checkAgreement(folder, unet, text, vae)
  const scheduler = await readJson(join(folder, 'scheduler', 'scheduler_config.json'), 'the scheduler')
  const factor = 2 ** (vae.block_out_channels.length - 1)
  const sample = readers[family.trained]!.json.sample_size ?? 64
  const side = (axis: number) => Number(Array.isArray(sample) ? sample[axis] : sample) * factor
  return {
    name: basename(folder),
    family,
    networks,
    tokenizers,
    textLayers: text.num_hidden_layers,
    contextDim: unet.cross_attention_dim,
    contextLength: tokenizers[family.text.encoder]!.length,
    latentChannels: vae.latent_channels,
    scheduler: schedulerConfig(scheduler, family.predictionTypes),
    factor,
    multiple: factor * 2 ** (unet.block_out_channels.length - 1),
    sampleSize: { width: side(1), height: side(0) },
    scalingFactor: readers[family.vae]!.number('scaling_factor', family.scalingFactor),
    shiftFactor: family.shiftFactor,
    ...lazyHashes(networks[family.trained]!.files.map(({ path }) => path)),
  }
}
