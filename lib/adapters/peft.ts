/**
 * LoRA files of diffusers and PEFT: names of tensors (huggingface/diffusers:src/diffusers/utils/state_dict_utils.py), and the config that
 * holds the scale (huggingface/peft:src/peft/tuners/lora/model.py).
 */
import { dirname, join } from 'node:path'
import { runInNewContext } from 'node:vm'
import { shown } from '../errors.js'
import { isRecord, type Json, parseRecord, readRecord } from '../files/json.js'
import { unlessMissing } from '../files/read.js'
import type { Parameter } from '../native.js'
import { invalidLora, type LayerConfig, unsupported, type Warn } from './adapter.js'
import type { TensorName } from './kohya.js'

const ROLES: Record<string, string> = { A: 'down', B: 'up', down: 'down', up: 'up' }
const PREFIX = 'base_model.model'
const NAME =
  /^(?!lora_)(?:(base_model\.model|unet|text_encoder\w*|transformer|clip_[lg])\.)?(.+?)\.(?:lora[._](A|B|down|up)(?:\.default)?\.weight|alpha)$/
/** OneTrainer's names of text encoders. */
const ENCODERS: Record<string, string> = { clip_l: 'text_encoder', clip_g: 'text_encoder_2' }

/**
 * Writes diffusers' first names as its later ones: `attn1.processor.to_out_lora.down` as `attn1.to_out.0.lora.down`, of text encoders
 * `self_attn.to_q_lora.down` and `self_attn.q_proj.lora_linear_layer.down` as `self_attn.q_proj.lora.down`.
 */
function laterName(name: string): string {
  const plain = name.replace('.processor.', '.').replace('.lora_linear_layer.', '.lora.')
  const text = plain.replace(/\.self_attn\.to_(q|k|v|out)_lora\.(?=down|up)/, '.self_attn.$1_proj.lora.')
  return text.replace(/\.to_(q|k|v|out)_lora\.(?=down|up)/, (_, part: string) => `.to_${part === 'out' ? 'out.0' : part}.lora.`)
}

/** Parses a tensor's name; undefined if it is neither diffusers' nor PEFT's, nor OneTrainer's. Without diffusers' prefix, the UNet is meant. */
export function parsePeftName(name: string): TensorName | undefined {
  const [, prefix, path, matrix] = NAME.exec(laterName(name)) ?? []
  if (path === undefined) return undefined
  const alone = /^(text_model\.)?encoder\.layers\./.test(path) ? 'text_encoder' : 'unet'
  const network = prefix === undefined || prefix === PREFIX ? alone : (ENCODERS[prefix] ?? prefix)
  return { network, layer: path.replaceAll('.', '_'), role: matrix === undefined ? 'alpha' : (ROLES[matrix] as string) }
}

/** Names a tensor as diffusers and PEFT do: `unet.mid_block.attentions.0.proj_in.lora_A.weight`. */
export function peftName(network: string, path: string, role: string): string {
  return `${network}.${path}.lora_${role === 'down' ? 'A' : 'B'}.weight`
}

/** Returns the value that most have. */
function commonest(values: number[]): number {
  const counts = new Map<number, number>()
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1)
  return [...counts].reduce((most, one) => (one[1] > most[1] ? one : most))[0]
}

/**
 * Makes the config of adapters with alpha multiplied in, so that their scale is 1: what diffusers reads from `lora_adapter_metadata` and makes a
 * LoraConfig of, by network (huggingface/diffusers:src/diffusers/loaders/lora_base.py).
 */
export function peftConfig(parameters: Parameter[]): Json {
  const ranks = new Map<string, Map<string, number>>()
  for (const { network, name, shape } of parameters) {
    if (!name.endsWith('.up')) continue
    const own = ranks.get(network) ?? new Map<string, number>()
    // Text encoders of transformers 5 have no `text_model`; PEFT compares ends.
    ranks.set(network, own.set(name.replace(/\.up$/, '').replace(/^text_model\./, ''), shape.at(-1) as number))
  }
  const configs = [...ranks].map(([network, own]) => {
    const r = commonest([...own.values()])
    const others = Object.fromEntries([...own].filter(([, rank]) => rank !== r).map(([path, rank]) => [path, rank]))
    const config = { r, lora_alpha: r, rank_pattern: others, alpha_pattern: others, target_modules: [...own.keys()] }
    return Object.entries(config).map(([key, value]) => [`${network}.${key}`, value])
  })
  return Object.fromEntries(configs.flat())
}

const MATCH = `
  const compiled = patterns.map((pattern) => new RegExp('^(?:.*\\\\.)?(?:' + pattern + ')$'))
  paths.map((path) => compiled.findIndex((pattern) => pattern.test(path)))`
const LONGEST_MS = 1000

/** Returns a function from a layer's path to its number: the first pattern that fits its end, as PEFT's `get_pattern_key`, or else `fallback`. */
function numbersOf(config: Json, key: string, fallback: number, paths: string[], path: string, source: string): (path: string) => number {
  const patterns = config[key] ?? {}
  if (!isRecord(patterns)) throw invalidLora(path, `an object for ${key} in ${source}`, shown(patterns))
  const numbers = Object.entries(patterns).map(([pattern, value]) => checkNumber(value, pattern, path, source))
  let found: number[] = []
  try {
    // A pattern can take for ever, so time is limited.
    if (numbers.length > 0) found = runInNewContext(MATCH, { patterns: Object.keys(patterns), paths }, { timeout: LONGEST_MS }) as number[]
  } catch (cause) {
    throw unsupported(path, `patterns that JavaScript reads for ${key} in ${source}`, shown((cause as Error).message))
  }
  const byPath = new Map(paths.map((layer, i) => [layer, numbers[found[i] ?? -1] ?? fallback]))
  return (layer) => byPath.get(layer) ?? fallback
}

function checkNumber(value: unknown, key: string, path: string, source: string): number {
  if (typeof value === 'number' && Number.isFinite(value)) return value
  throw invalidLora(path, `a number for ${shown(key)} in ${source}`, shown(value))
}

/** Finds the config of a network: in diffusers' metadata, where its keys may have the network's name before them, or beside a file of PEFT's. */
async function readConfig(
  path: string,
  network: string,
  metadata: Record<string, string>,
  isPeft: boolean,
): Promise<{ config: Json; source: string } | undefined> {
  const { lora_adapter_metadata: text } = metadata
  if (text !== undefined) {
    const config = parseRecord(text)
    if (!config) throw invalidLora(path, 'a JSON object for lora_adapter_metadata', shown(text))
    const own = Object.entries(config).filter(([key]) => key.startsWith(`${network}.`))
    const named = own.map(([key, value]) => [key.slice(network.length + 1), value])
    return { config: own.length > 0 ? Object.fromEntries(named) : config, source: 'lora_adapter_metadata' }
  }
  if (!isPeft) return undefined
  const source = join(dirname(path), 'adapter_config.json')
  const reading = readRecord(source, "PEFT's config", (received) => invalidLora(path, `a JSON object for ${source}`, received))
  const config = await unlessMissing(reading)
  return config && { config, source }
}

/**
 * Reads what a config says about layers of a network: alpha / rank, or with `use_rslora` alpha / √rank. Undefined without a config; where
 * the file is PEFT's own, `warn` is told. Throws `LORA_INVALID`, `LORA_UNSUPPORTED`.
 */
export async function readPeftLayers(
  { path, network, metadata, names }: { path: string; network: string; metadata: Record<string, string>; names: string[] },
  paths: string[],
  warn: Warn,
): Promise<((layer: string) => LayerConfig) | undefined> {
  const isPeft = names.some((name) => name.startsWith(`${PREFIX}.`))
  const found = await readConfig(path, network, metadata, isPeft)
  if (!found) {
    const message = `Expected adapter_config.json beside ${path} but received none; its scale is taken to be 1`
    if (isPeft) warn({ code: 'LORA_SCALE_UNKNOWN', message, path })
    return undefined
  }
  const { config, source } = found
  if (config.r === undefined && config.lora_alpha === undefined) return undefined
  const { use_dora: dora, use_rslora: stabilised, init_lora_weights: begin } = config
  if (dora) throw unsupported(path, 'a plain LoRA', `a DoRA, as ${source} says`)
  if (typeof begin === 'string' && /^(pissa|olora|corda|loftq|lora_ga)/.test(begin)) {
    throw unsupported(
      path,
      "a LoRA on the model's own weights",
      `one on weights that ${shown(begin)} changed, as ${source} says; convert it with PEFT`,
    )
  }
  // PEFT's defaults.
  const [r, alpha] = [config.r ?? 8, config.lora_alpha ?? 8].map((value, i) => checkNumber(value, i ? 'lora_alpha' : 'r', path, source))
  const rankOf = numbersOf(config, 'rank_pattern', r as number, paths, path, source)
  const alphaOf = numbersOf(config, 'alpha_pattern', alpha as number, paths, path, source)
  return (layer) => {
    const rank = rankOf(layer)
    return { source, rank, scale: alphaOf(layer) / (stabilised ? Math.sqrt(rank) : rank) }
  }
}
