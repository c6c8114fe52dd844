/** Reads a model in diffusers' folder layout: sizes from its configs, weights as places in its files. */
import { basename, join, resolve } from 'node:path'
import { LorafuseError, shown } from '../errors.js'
import { isRecord, type Json, readRecord } from '../files/json.js'
import { exists, isFolder, listFolder, unlessMissing } from '../files/read.js'
import { readHeader } from '../files/safetensors.js'
import type { Network, WeightEntry, WeightFile } from '../native.js'
import { ConfigReader, schedulerConfig, type TextEncoderConfig, type UNetConfig, unsupported, type VaeConfig } from './configs.js'
import { type Family, lazyHashes, type Model } from './model.js'
import { ourName } from './names.js'
import { sd1 } from './sd1.js'
import { loadTokenizer, type Tokenizer } from './tokenizer.js'

const families: Family[] = [sd1]
/** Latents of a side of the size that a model was trained at. */
const MOST_LATENTS = 1024

function incomplete(what: string, where: string): LorafuseError {
  return new LorafuseError(
    'MODEL_INCOMPLETE',
    `Expected ${what} at ${where} but received none; copy the whole diffusers folder of the model`,
  )
}

function invalid(path: string, expected: string, received: string): LorafuseError {
  return new LorafuseError('MODEL_INVALID', `Expected ${expected} for ${path} but received ${received}`)
}

async function readConfig(path: string, what: string): Promise<ConfigReader> {
  const title = `${what}'s config`
  const json = await unlessMissing(readRecord(path, title, (received) => invalid(path, 'a JSON object', received)))
  if (!json) throw incomplete(title, path)
  return new ConfigReader(path, json)
}

/** Lists the shards of an index, each once. */
async function readShards(index: string, what: string): Promise<string[]> {
  const { weight_map: map } = (await readConfig(index, what)).json
  const shards = isRecord(map) ? [...new Set(Object.values(map))] : []
  const odd = shards.find((shard) => typeof shard !== 'string' || !/^[^/\\\0]+\.safetensors$/.test(shard))
  if (shards.length === 0 || odd !== undefined) throw invalid(index, 'names of .safetensors files in a weight_map', shown(odd ?? map))
  return (shards as string[]).sort()
}

/** Finds a network's weight files: one, or the shards that an index lists; the `fp16` variant only if there is no other. */
async function weightPaths(folder: string, stem: string, what: string): Promise<string[]> {
  const title = `${what}'s weights`
  for (const variant of ['', '.fp16']) {
    const single = join(folder, `${stem}${variant}.safetensors`)
    if (await exists(single, title)) return [single]
    const index = join(folder, `${stem}.safetensors.index${variant}.json`)
    if (!(await exists(index, title))) continue
    const paths = (await readShards(index, what)).map((shard) => join(folder, shard))
    for (const path of paths) if (!(await exists(path, title))) throw incomplete(title, path)
    return paths
  }
  const pickle = (await listFolder(folder, title)).find((name) => /\.(bin|ckpt|pt)$/.test(name))
  const hint = pickle === undefined ? '' : ` (${pickle} is a pickle, which may run code: save the model as safetensors)`
  throw incomplete(title, `${join(folder, stem)}.safetensors${hint}`)
}

/** Reads the headers of a network's weights. Leaves out integer tensors (`position_ids`), refuses 8- and 64-bit floats. */
async function readWeights(folder: string, architecture: Network['architecture'], what: string): Promise<WeightFile[]> {
  const stem = architecture === 'clip' ? 'model' : 'diffusion_pytorch_model'
  const files: WeightFile[] = []
  for (const path of await weightPaths(folder, stem, what)) {
    const tensors: WeightEntry[] = []
    for (const { name, dtype, shape, offset } of (await readHeader(path, `${what}'s weights`)).tensors) {
      if (dtype === 'F32' || dtype === 'F16' || dtype === 'BF16') tensors.push({ name: ourName(architecture, name), dtype, shape, offset })
      else if (/^[FC]/.test(dtype))
        throw unsupported(`Expected F32, F16 or BF16 for tensor ${shown(name)} in ${path} but received ${dtype}`)
    }
    files.push({ path, tensors })
  }
  return files
}

/** Names what the parts of a folder make, if it is not a model of a known family. */
async function foreignName(folder: string, names: string[]): Promise<string> {
  if (names.includes('text_encoder_2') && names.includes('unet')) return 'Stable Diffusion XL (SDXL)'
  const path = join(folder, 'model_index.json')
  const index: Json = (await unlessMissing(readRecord(path, 'a model', (received) => invalid(path, 'a JSON object', received)))) ?? {}
  return index._class_name === undefined ? 'parts of another model' : shown(index._class_name)
}

/** Finds out which family the model in a folder belongs to, and whether all its parts are there. */
async function familyOf(folder: string): Promise<Family> {
  const found = await isFolder(folder, 'a model folder')
  if (found === undefined)
    throw new LorafuseError('MODEL_NOT_FOUND', `Expected a model folder at ${folder} but received nothing: there is no such folder`)
  if (!found) throw unsupported(`Expected a diffusers folder for model but received the file ${folder}`)
  const names = await listFolder(folder, 'a model folder')
  const family = families.find(({ matches }) => matches(names))
  if (!family) {
    throw unsupported(
      `Expected a model of a known family in ${folder} but received ${await foreignName(folder, names)}, which is not supported`,
    )
  }
  const tokenizers = Object.values(family.networks).flatMap(({ tokenizer = [] }) => tokenizer)
  for (const name of [...Object.keys(family.networks), ...tokenizers, 'scheduler']) {
    if (!names.includes(name)) throw incomplete(`the ${name.replace('_', ' ')}`, join(folder, name))
  }
  return family
}

/** Checks that what the networks and the tokenizer say about each other agrees. */
function checkAgreement(folder: string, unet: UNetConfig, text: TextEncoderConfig, vae: VaeConfig, tokenizer: Tokenizer): void {
  const widths: [string, number, string, number][] = [
    ["the UNet's cross_attention_dim", unet.cross_attention_dim, "the text encoder's hidden_size", text.hidden_size],
    ["the UNet's in_channels", unet.in_channels, "the VAE's latent_channels", vae.latent_channels],
    ["the UNet's out_channels", unet.out_channels, "the VAE's latent_channels", vae.latent_channels],
  ]
  for (const [name, value, otherName, other] of widths) {
    if (value !== other) throw unsupported(`Expected ${otherName}, ${other}, for ${name} in ${folder} but received ${value}`)
  }
  const limits: [string, number, string, number][] = [
    ['model_max_length', tokenizer.length, 'max_position_embeddings', text.max_position_embeddings],
    ['token ids', tokenizer.vocabulary, 'vocab_size', text.vocab_size],
  ]
  for (const [name, value, limitName, limit] of limits) {
    if (value <= limit) continue
    throw invalid(folder, `at most the text encoder's ${limitName}, ${limit}, as the tokenizer's ${name}`, `${value}`)
  }
}

/**
 * Reads and checks a model's configs, tokenizer and weight headers, but no weights. Throws `MODEL_NOT_FOUND`, `MODEL_INCOMPLETE` (which
 * part, where), `MODEL_INVALID` (a config), `MODEL_UNSUPPORTED`, `TOKENIZER_INVALID`, `SAFETENSORS_INVALID`, and as `openFile`.
 */
export async function readModel(path: string): Promise<Model> {
  const folder = resolve(path)
  const family = await familyOf(folder)
  const networks: Record<string, Network> = {}
  const readers: Record<string, ConfigReader> = {}
  const tokenizers: Record<string, Tokenizer> = {}
  for (const [name, { title, architecture, readConfig: read, tokenizer, f32 = false }] of Object.entries(family.networks)) {
    const reader = await readConfig(join(folder, name, 'config.json'), title)
    const config = read(reader)
    networks[name] = { architecture, config, files: await readWeights(join(folder, name), architecture, title), f32 }
    readers[name] = reader
    if (tokenizer) tokenizers[name] = await loadTokenizer(join(folder, tokenizer))
  }
  const unet = networks[family.trained]!.config as UNetConfig
  const text = networks[family.text.encoder]!.config as TextEncoderConfig
  const vae = networks[family.vae]!.config as VaeConfig
  checkAgreement(folder, unet, text, vae, tokenizers[family.text.encoder]!)
  const scheduler = await readConfig(join(folder, 'scheduler', 'scheduler_config.json'), 'the scheduler')
  const factor = 2 ** (vae.block_out_channels.length - 1)
  const [height, width] = readers[family.trained]!.countEach('sample_size', 64, 2, MOST_LATENTS).map((side) => side * factor) as [
    number,
    number,
  ]
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
    sampleSize: { width, height },
    scalingFactor: readers[family.vae]!.number('scaling_factor', family.scalingFactor, 1e-6, 1e6),
    shiftFactor: family.shiftFactor,
    ...lazyHashes(networks[family.trained]!.files.map(({ path }) => path)),
  }
}
