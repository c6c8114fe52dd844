/** Reads a model of any layout and family: picks the reader, finds the family and checks that the parts fit together. */
import { resolve } from 'node:path'
import { LorafuseError, shown } from '../errors.js'
import { isFolder } from '../files/read.js'
import type { Network, NetworkConfig } from '../native.js'
import { readComponents } from './components.js'
import {
  type pooledTextEncoderConfig,
  type SchedulerConfig,
  schedulerConfig,
  type TextEncoderConfig,
  type UNetConfig,
  unsupported,
  type VaeConfig,
} from './configs.js'
import { invalidPart, readDiffusers } from './diffusers.js'
import { familyOf } from './families.js'
import { fetchDamaged, type HubContext, locateModel } from './hub.js'
import { type Family, lazyHashes, type Model, type Parts, type ReadOptions } from './model.js'
import { NETWORKS } from './networks.js'
import { readSingleFile } from './single-file.js'
import { TIME_IDS } from './text.js'
import type { Tokenizer } from './tokenizer.js'
import { weightNames } from './weight-names.js'

/** Latents of a side of the size that a model was trained at. */
const MOST_LATENTS = 1024

/** Finds a model, on the Hub where there is no such path, and picks the reader of what is there. */
async function readParts(model: string, { predictionType }: ReadOptions, context: HubContext): Promise<Parts> {
  const { path, name } = await locateModel(model, context)
  const place = resolve(path)
  const found = await isFolder(place, 'a model')
  if (found === undefined)
    throw new LorafuseError('MODEL_NOT_FOUND', `Expected a model folder or file at ${place} but received nothing: there is neither`)
  if (!found) return readSingleFile(place, predictionType)
  const parts = await readDiffusers(place)
  return name === undefined ? parts : { ...parts, name }
}

/** Checks that what the networks say about each other agrees. */
function checkWidths(path: string, family: Family, unet: UNetConfig, texts: TextEncoderConfig[], vae: VaeConfig): void {
  const context = texts.reduce((sum, { hidden_size }) => sum + hidden_size, 0)
  const encoders = texts.length > 1 ? "the text encoders' hidden_sizes" : "the text encoder's hidden_size"
  const widths: [string, number, string, number][] = [
    ["the UNet's cross_attention_dim", unet.cross_attention_dim, encoders, context],
    ["the UNet's in_channels", unet.in_channels, "the VAE's latent_channels", vae.latent_channels],
    ["the UNet's out_channels", unet.out_channels, "the VAE's latent_channels", vae.latent_channels],
  ]
  const pooled = pooledWidth(unet)
  if (pooled !== undefined) {
    const projected = texts[family.text.findIndex((text) => text.pooled)] as ReturnType<typeof pooledTextEncoderConfig>
    const name = "the UNet's projection_class_embeddings_input_dim without sizes"
    widths.push([name, pooled, "the second text encoder's projection_dim", projected.projection_dim])
  }
  for (const [name, value, otherName, other] of widths) {
    if (value !== other) throw unsupported(`Expected ${otherName}, ${other}, for ${name} in ${path} but received ${value}`)
  }
}

function checkTokenizer(path: string, tokenizer: Tokenizer, text: TextEncoderConfig): void {
  const limits: [string, number, string, number][] = [
    ['model_max_length', tokenizer.length, 'max_position_embeddings', text.max_position_embeddings],
    ['token ids', tokenizer.vocabulary, 'vocab_size', text.vocab_size],
  ]
  for (const [name, value, limitName, limit] of limits) {
    if (value <= limit) continue
    throw invalidPart(path, `at most the text encoder's ${limitName}, ${limit}, as the tokenizer's ${name}`, `${value}`)
  }
}

/** Features of the pooled text; undefined where the UNet takes none. */
function pooledWidth(unet: NetworkConfig): number | undefined {
  const { addition_time_embed_dim: each, projection_class_embeddings_input_dim: all } = unet
  return typeof each === 'number' && typeof all === 'number' ? all - TIME_IDS * each : undefined
}

/** What the model predicts, in the words of a start line. */
const PREDICTIONS: Record<SchedulerConfig['predictionType'], string> = {
  epsilon: 'ε-prediction',
  v_prediction: 'v-prediction',
  flow: 'flow',
}

/** Changes what a scheduler's config says to what the options say. Throws `MODEL_UNSUPPORTED` where the two do not go together. */
function chosenScheduler(path: string, config: SchedulerConfig, options: ReadOptions): SchedulerConfig {
  const { predictionType = config.predictionType, zeroTerminalSnr: rescaleBetasZeroSnr = config.rescaleBetasZeroSnr } = options
  if (rescaleBetasZeroSnr && predictionType === 'epsilon') {
    const message = `Expected v_prediction with zero terminal SNR for ${path} but received epsilon, which says nothing of noise alone`
    throw new LorafuseError('MODEL_UNSUPPORTED', `${message}; use --prediction-type v_prediction or --zero-terminal-snr=false`)
  }
  // The config's timesteps are those of a model without it, and a picture has to begin at the last one.
  const timestepSpacing = rescaleBetasZeroSnr && !config.rescaleBetasZeroSnr ? 'trailing' : config.timestepSpacing
  return { ...config, predictionType, rescaleBetasZeroSnr, timestepSpacing }
}

/** Names a model for the start of a run: `SDXL, v-prediction with zero terminal SNR, found by scheduler/scheduler_config.json`. */
function phrase(family: Family, parts: Parts, scheduler: SchedulerConfig, options: ReadOptions): string {
  const zero = scheduler.rescaleBetasZeroSnr ? ' with zero terminal SNR' : ''
  const isAsked = options.predictionType !== undefined || options.zeroTerminalSnr !== undefined
  const by = isAsked ? 'as asked for' : `found by ${parts.schedulerBy}`
  return `${family.title}, ${PREDICTIONS[scheduler.predictionType]}${zero}, ${by}`
}

/**
 * Looks for weights of a network that nothing reads. Throws `MODEL_UNSUPPORTED` for those of the UNet, which would change what it computes, and
 * else warns, `WEIGHTS_UNREAD`.
 */
function checkWeights(network: Network, title: string, { onEvent }: HubContext): void {
  const names = weightNames(network)
  const unread = network.files.flatMap(({ path, tensors }) =>
    tensors.filter(({ name }) => !names.has(name)).map(({ name }) => ({ name, path })),
  )
  const [first] = unread
  if (!first) return
  const { name, path } = first
  const received = `received ${shown(name)}${unread.length > 1 ? ` and ${unread.length - 1} more` : ''}`
  const message = `Expected only weights that ${title} of this kind has in ${path} but ${received}`
  if (network.architecture === 'unet') throw new LorafuseError('MODEL_UNSUPPORTED', `${message}; use the model without what they belong to`)
  onEvent?.({ type: 'warning', code: 'WEIGHTS_UNREAD', message: `${message}, which are not used`, path })
}

/** Reads the networks of a family with their configs. */
function readNetworks(family: Family, parts: Parts, context: HubContext): Record<string, Network> {
  const read = ([name, { readConfig, f32 }]: [string, Family['networks'][string]]): [string, Network] => {
    const { architecture, title } = NETWORKS[name]!
    const { config, files } = parts.networks[name]!
    const network = { architecture, config: readConfig(config), files, ...(f32 && { f32 }) }
    checkWeights(network, title, context)
    return [name, network]
  }
  return Object.fromEntries(Object.entries(family.networks).map(read))
}

/** Reads what is there. */
async function readOnce(model: string, options: ReadOptions, context: HubContext): Promise<Model> {
  const found = await readParts(model, options, context)
  const components = await readComponents(options, context)
  const parts = { ...found, networks: { ...found.networks, ...components } }
  const family = familyOf(parts)
  const strange = Object.keys(components).find((name) => !family.networks[name])
  if (strange !== undefined) {
    const message = `Expected a VAE or text encoder of ${family.title} for ${parts.path} but received a ${strange} of another family`
    throw new LorafuseError('MODEL_UNSUPPORTED', message)
  }
  const networks = readNetworks(family, parts, context)
  const configOf = <Config>(name: string) => networks[name]!.config as Config
  const unet = configOf<UNetConfig>(family.trained)
  const vae = configOf<VaeConfig>(family.vae)
  const texts = family.text.map(({ network }) => configOf<TextEncoderConfig>(network))
  checkWidths(parts.path, family, unet, texts, vae)
  const tokenizers: Record<string, Tokenizer> = {}
  for (const [i, { network, padId }] of family.text.entries()) {
    const tokenizer = await parts.tokenizer(network, padId)
    checkTokenizer(parts.path, tokenizer, texts[i]!)
    tokenizers[network] = tokenizer
  }
  const scheduler = chosenScheduler(parts.path, schedulerConfig(parts.scheduler, family.predictionTypes), options)
  const factor = 2 ** (vae.block_out_channels.length - 1)
  const sides = parts.networks[family.trained]!.config.countEach('sample_size', family.sampleSize, 2, MOST_LATENTS)
  const [height, width] = sides.map((side) => side * factor) as [number, number]
  const pooled = pooledWidth(unet)
  return {
    name: parts.name,
    family,
    foundBy: phrase(family, parts, scheduler, options),
    networks,
    tokenizers,
    mostClipSkip: family.mostClipSkip ?? Math.min(...texts.map(({ num_hidden_layers }) => num_hidden_layers)),
    contextDim: unet.cross_attention_dim,
    pooledDim: pooled ?? 0,
    timeIds: pooled !== undefined,
    latentChannels: vae.latent_channels,
    scheduler,
    factor,
    multiple: factor * 2 ** (unet.block_out_channels.length - 1),
    sampleSize: { width, height },
    scalingFactor: parts.networks[family.vae]!.config.number('scaling_factor', family.scalingFactor, 1e-6, 1e6),
    shiftFactor: family.shiftFactor,
    ...lazyHashes(networks[family.trained]!.files.map(({ path }) => path)),
  }
}

/**
 * Reads and checks a model's configs, tokenizers and weight headers, but no weights. Throws `MODEL_NOT_FOUND`, `MODEL_INCOMPLETE` (which
 * part, where), `MODEL_INVALID` (a config), `MODEL_UNSUPPORTED`, `TOKENIZER_INVALID`, `SAFETENSORS_INVALID`, as `openFile` and as
 * `resolveHubModel`. `context`: for a model that is fetched. What of it is damaged in the Hub's cache is fetched again, with a warning
 * `CACHE_DAMAGED`. Weights of encoders and VAE that nothing reads have a warning `WEIGHTS_UNREAD`.
 */
export async function readModel(model: string, options: ReadOptions = {}, context: HubContext = {}): Promise<Model> {
  try {
    return await readOnce(model, options, context)
  } catch (error) {
    const { vae, textEncoder = [] } = options
    const parts = [...(vae === undefined ? [] : [vae]), ...textEncoder].map((part) => ({ model: part, files: true }))
    if (!(await fetchDamaged(error, [{ model, files: false }, ...parts], context))) throw error
    return readOnce(model, options, context)
  }
}
