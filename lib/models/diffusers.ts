/** Reads a model in diffusers' folder layout: sizes from its configs, weights as places in its files. */
import { readdir, readFile, stat } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { LorafuseError } from '../errors.js'
import { readHeader } from '../files/safetensors.js'
import type { Network, NetworkConfig, WeightEntry, WeightFile } from '../native.js'
import {
  ConfigReader,
  type Json,
  schedulerConfig,
  type TextEncoderConfig,
  textEncoderConfig,
  type UNetConfig,
  unetConfig,
  unsupported,
  type VaeConfig,
  vaeConfig,
} from './configs.js'
import { lazyHashes, type Model } from './model.js'
import { ourName } from './names.js'
import { sd1 } from './sd1.js'
import { loadTokenizer } from './tokenizer.js'

async function exists(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined)) !== undefined
}

function incomplete(what: string, where: string): LorafuseError {
  return new LorafuseError(
    'MODEL_INCOMPLETE',
    `Expected ${what} at ${where} but received none; copy the whole diffusers folder of the model`,
  )
}

async function readConfig(path: string, what: string): Promise<ConfigReader> {
  const text = await readFile(path, 'utf8').catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'ENOENT' || cause.code === 'ENOTDIR') throw incomplete(`${what}'s config`, path)
    throw cause
  })
  try {
    const json: unknown = JSON.parse(text)
    if (typeof json === 'object' && json !== null && !Array.isArray(json)) return new ConfigReader(path, json as Json)
  } catch {}
  throw new LorafuseError('MODEL_INVALID', `Expected a JSON object for ${path} but received something else`)
}

/** Finds a network's weight files: one, or the shards that an index lists; the `fp16` variant only if there is no other. */
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

async function checkFolder(folder: string): Promise<void> {
  const found = await stat(folder).catch(() => undefined)
  if (!found)
    throw new LorafuseError('MODEL_NOT_FOUND', `Expected a model folder at ${folder} but received nothing: there is no such folder`)
  if (!found.isDirectory()) throw unsupported(`Expected a diffusers folder for model but received the file ${folder}`)
  if (await exists(join(folder, 'text_encoder_2')))
    throw unsupported(`Expected one text encoder in ${folder} but received two, as SDXL has`)
  for (const name of [...Object.keys(sd1.networks), 'tokenizer', 'scheduler']) {
    if (!(await exists(join(folder, name)))) throw incomplete(`the ${name.replace('_', ' ')}`, join(folder, name))
  }
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
  await checkFolder(folder)
  const family = sd1
  const title = (name: string) => family.networks[name]!.title
  const config = (name: string) => readConfig(join(folder, name, 'config.json'), title(name))
  const unetJson = await config('unet')
  const unet = unetConfig(unetJson)
  const text = textEncoderConfig(await config('text_encoder'))
  const vaeJson = await config('vae')
  const vae = vaeConfig(vaeJson)
  const schedulerJson = await readConfig(join(folder, 'scheduler', 'scheduler_config.json'), 'the scheduler')
  const scheduler = schedulerConfig(schedulerJson, family.predictionTypes)
  checkAgreement(folder, unet, text, vae)
  const configs: Record<string, NetworkConfig> = { unet, text_encoder: text, vae }
  const networks: Record<string, Network> = {}
  for (const [name, { architecture, f32 = false }] of Object.entries(family.networks)) {
    const files = await readWeights(join(folder, name), architecture, title(name))
    networks[name] = { architecture, config: configs[name]!, files, f32 }
  }
  const factor = 2 ** (vae.block_out_channels.length - 1)
  const sample = unetJson.json.sample_size ?? 64
  const side = (axis: number) => Number(Array.isArray(sample) ? sample[axis] : sample) * factor
  return {
    name: basename(folder),
    family,
    networks,
    tokenizers: { text_encoder: await loadTokenizer(join(folder, 'tokenizer')) },
    textLayers: text.num_hidden_layers,
    contextDim: unet.cross_attention_dim,
    latentChannels: vae.latent_channels,
    scheduler,
    factor,
    multiple: factor * 2 ** (unet.block_out_channels.length - 1),
    sampleSize: { width: side(1), height: side(0) },
    scalingFactor: vaeJson.number('scaling_factor', family.scalingFactor),
    shiftFactor: vaeJson.number('shift_factor', family.shiftFactor),
    ...lazyHashes(networks.unet!.files.map(({ path }) => path)),
  }
}
