/**
 * Reads a model's config files with diffusers' and transformers' checks and defaults. What crosses to the native side keeps their names, so
 * a field stands here and in the network that uses it. Throws `MODEL_UNSUPPORTED` for what the networks here do not compute and
 * `MODEL_INVALID` for a value that makes no sense.
 */
import { isDeepStrictEqual } from 'node:util'
import { LorafuseError, shown } from '../errors.js'
import type { Json } from '../files/json.js'
import type { NetworkConfig } from '../native.js'

/** What a model predicts: diffusers' `prediction_type`, or `flow` for rectified flow. One row each in `lib/train/objective.ts`. */
export type PredictionType = 'epsilon' | 'v_prediction' | 'flow'

/** Fields of diffusers' `scheduler/scheduler_config.json`. */
export interface SchedulerConfig {
  numTrainTimesteps: number
  betaStart: number
  betaEnd: number
  betaSchedule: 'linear' | 'scaled_linear'
  predictionType: PredictionType
  /** Shift and scale √ᾱ so that nothing of the image is left at the last timestep: zero terminal SNR. */
  rescaleBetasZeroSnr: boolean
  /** Which timesteps DDIM goes through. */
  timestepSpacing: 'leading' | 'trailing' | 'linspace'
  stepsOffset: number
  setAlphaToOne: boolean
  clipSample: boolean
  clipSampleRange: number
}

export function unsupported(problem: string): LorafuseError {
  return new LorafuseError('MODEL_UNSUPPORTED', `${problem}. Use a model of Stable Diffusion 1.x, 2.x or XL`)
}

/** No size of a network comes near; the products of a few such numbers can still be counted. */
const MOST = 2 ** 20
/** Levels of a network, and layers of one level or of a text encoder. */
const MOST_LEVELS = 8
const MOST_LAYERS = 128

/** Typed reads of a JSON config: null counts as absent, an absent key has its default, and an error names file and key. */
export class ConfigReader {
  constructor(
    readonly path: string,
    readonly json: Json,
  ) {}

  private read<Value>(key: string, fallback: Value, what: string, valid: (value: unknown) => boolean): Value {
    const value = this.json[key] ?? fallback
    if (valid(value)) return value as Value
    throw new LorafuseError('MODEL_INVALID', `Expected ${what} for ${key} in ${this.path} but received ${shown(this.json[key])}`)
  }

  number(key: string, fallback: number, least: number, most: number): number {
    return this.read(key, fallback, `a number from ${least} to ${most}`, (value) => inRange(value, least, most))
  }

  /** Reads a whole number. */
  integer(key: string, fallback: number, least: number, most: number): number {
    const valid = (value: unknown) => Number.isInteger(value) && inRange(value, least, most)
    return this.read(key, fallback, `a whole number from ${least} to ${most}`, valid)
  }

  count(key: string, fallback: number, most = MOST): number {
    return this.integer(key, fallback, 1, most)
  }

  /** Reads a list of counts, of 1 to `longest`; `shortest`: the least of them that make sense. */
  counts(key: string, fallback: number[], shortest = 1, longest = MOST_LEVELS, most = MOST): number[] {
    const length = shortest === longest ? `${shortest}` : `${shortest} to ${longest}`
    const valid = (value: unknown) =>
      Array.isArray(value) && value.length >= shortest && value.length <= longest && value.every((item) => isCount(item, most))
    return this.read(key, fallback, `a list of ${length} whole numbers from 1 to ${most}`, valid)
  }

  /** Reads `length` counts: from a list, or the same number for all. */
  countEach(key: string, fallback: number, length: number, most = MOST): number[] {
    if (Array.isArray(this.json[key])) return this.counts(key, [], length, length, most)
    return new Array<number>(length).fill(this.count(key, fallback, most))
  }

  /**
   * Reads `each` counts for each of `blocks`: a list whose items are lists, or the same number for all. Blocks without transformers have 0
   * in some files.
   */
  nestedCounts(key: string, fallback: number, blocks: number, each: number, most: number): number[] {
    const valid = (value: unknown) => isCount(value, most) || value === 0
    const fits = (item: unknown) => (Array.isArray(item) ? item.length === each && item.every(valid) : valid(item))
    const list = this.read<unknown[]>(
      key,
      new Array(blocks).fill(fallback),
      `a list of ${blocks}, each a whole number from 1 to ${most} or ${each} of them,`,
      (value) => Array.isArray(value) && value.length === blocks && value.every(fits),
    )
    const numbers = list.flatMap((item) => (Array.isArray(item) ? (item as number[]) : new Array<number>(each).fill(item as number)))
    return numbers.map((number) => Math.max(1, number))
  }

  flag(key: string, fallback: boolean): boolean {
    return this.read(key, fallback, 'true or false', (value) => typeof value === 'boolean')
  }

  names(key: string, fallback: string[]): string[] {
    return this.read(key, fallback, 'a list of names', (value) => Array.isArray(value) && value.every((name) => typeof name === 'string'))
  }

  /** Throws `MODEL_UNSUPPORTED` unless the key is absent or has one of the values, the first of which is the default. */
  only<Value>(key: string, ...values: Value[]): Value {
    const value = this.json[key] ?? values[0]
    if (!values.some((allowed) => isDeepStrictEqual(allowed, value))) {
      const wanted = values.map(shown).join(' or ')
      throw unsupported(`Expected ${wanted} for ${key} in ${this.path} but received ${shown(value)}, which is not supported`)
    }
    return value as Value
  }

  /** Throws `MODEL_INVALID` unless all the widths can be split into `parts`, e.g. `heads`. */
  checkDivides(parts: string, count: number, widths: number[]): void {
    const odd = widths.find((width) => width % count !== 0)
    if (odd === undefined) return
    throw new LorafuseError('MODEL_INVALID', `Expected ${parts} that divide ${odd} channels in ${this.path} but received ${count}`)
  }
}

function inRange(value: unknown, least: number, most: number): boolean {
  return typeof value === 'number' && value >= least && value <= most
}

function isCount(value: unknown, most: number): value is number {
  return Number.isInteger(value) && inRange(value, 1, most)
}

/** The values that keys of a UNet's config may have. */
const UNET_ONLY: [unknown, keys: string][] = [
  ['UNet2DConditionModel', '_class_name'],
  [null, 'class_embed_type num_class_embeds encoder_hid_dim encoder_hid_dim_type time_cond_proj_dim'],
  [null, 'time_embedding_dim time_embedding_act_fn timestep_post_act cross_attention_norm'],
  [false, 'dual_cross_attention only_cross_attention mid_block_only_cross_attention center_input_sample'],
  [false, 'resnet_skip_time_act class_embeddings_concat'],
  [1, 'mid_block_scale_factor resnet_out_scale_factor downsample_padding'],
  [3, 'conv_in_kernel conv_out_kernel'],
  ['default', 'resnet_time_scale_shift attention_type'],
  ['silu', 'act_fn'],
  ['positional', 'time_embedding_type'],
]

const MID_BLOCK = 'UNetMidBlock2DCrossAttn'
/** Most transformer layers of one attention block; SDXL has 10. */
const MOST_TRANSFORMER_LAYERS = 64

/**
 * Reads how many layers each transformer has: one number, one per block, or one per transformer of each block, for the way up in lists of
 * their own (SSD-1B, Vega). Regular ones are returned one per block; irregular ones one per transformer, block after block.
 */
function transformerLayers(config: ConfigReader, blocks: number, layers: number): NetworkConfig {
  const [key, upKey] = ['transformer_layers_per_block', 'reverse_transformer_layers_per_block']
  const counts = (name: string, each: number) => config.nestedCounts(name, 1, blocks, each, MOST_TRANSFORMER_LAYERS)
  if (config.json[upKey] == null) return { [key]: config.countEach(key, 1, blocks, MOST_TRANSFORMER_LAYERS) }
  return { [key]: counts(key, layers), [upKey]: counts(upKey, layers + 1) }
}

/** Reads what SDXL's UNet takes beside the text: pooled text and sizes. */
function textTime(config: ConfigReader): NetworkConfig {
  if (config.only('addition_embed_type', null, 'text_time') === null) return {}
  return {
    addition_time_embed_dim: config.count('addition_time_embed_dim', 256),
    projection_class_embeddings_input_dim: config.count('projection_class_embeddings_input_dim', 2816),
  }
}

/** Reads the middle block, if it is another than usual: one resnet, or none at all. */
function midBlock(config: ConfigReader): NetworkConfig {
  if (config.json.mid_block_type === null) return { mid_block_type: 'None' }
  const type = config.only('mid_block_type', MID_BLOCK, 'UNetMidBlock2D')
  return type === MID_BLOCK ? {} : { mid_block_type: type }
}

/**
 * diffusers' UNet2DConditionModel; `attention_head_dim` counts heads
 * (huggingface/diffusers:src/diffusers/models/unets/unet_2d_condition.py).
 */
export function unetConfig(config: ConfigReader) {
  for (const [value, keys] of UNET_ONLY) for (const key of keys.split(' ')) config.only(key, value)
  const block_out_channels = config.counts('block_out_channels', [320, 640, 1280, 1280])
  const blocks = block_out_channels.length
  const blockTypes = (key: string, cross: string, plain: string, fallback: string[]) => {
    const types = config.names(key, fallback)
    const odd = types.find((type) => type !== cross && type !== plain)
    if (odd !== undefined || types.length !== blocks) {
      const received = odd === undefined ? `${types.length} of them` : shown(odd)
      throw unsupported(`Expected ${blocks} of ${cross} or ${plain} for ${key} in ${config.path} but received ${received}`)
    }
    return types
  }
  const [down, up] = ['CrossAttnDownBlock2D', 'CrossAttnUpBlock2D']
  const headsKey = config.json.num_attention_heads == null ? 'attention_head_dim' : 'num_attention_heads'
  const heads = config.countEach(headsKey, 8, blocks)
  for (const [i, channels] of block_out_channels.entries()) config.checkDivides('heads', heads[i] as number, [channels])
  const norm_num_groups = config.count('norm_num_groups', 32)
  config.checkDivides('groups', norm_num_groups, block_out_channels)
  const layers_per_block = config.count('layers_per_block', 2, MOST_LAYERS)
  return {
    in_channels: config.count('in_channels', 4),
    out_channels: config.count('out_channels', 4),
    block_out_channels,
    down_block_types: blockTypes('down_block_types', down, 'DownBlock2D', [down, down, down, 'DownBlock2D']),
    up_block_types: blockTypes('up_block_types', up, 'UpBlock2D', ['UpBlock2D', up, up, up]),
    layers_per_block,
    num_attention_heads: heads,
    ...transformerLayers(config, blocks, layers_per_block),
    ...midBlock(config),
    ...textTime(config),
    cross_attention_dim: config.count('cross_attention_dim', 1280),
    norm_num_groups,
    norm_eps: config.number('norm_eps', 1e-5, 0, 1),
    flip_sin_to_cos: config.flag('flip_sin_to_cos', true),
    freq_shift: config.only('freq_shift', 0, 1),
  } satisfies NetworkConfig
}

export type UNetConfig = ReturnType<typeof unetConfig>

/** transformers' CLIPTextConfig. */
export function textEncoderConfig(config: ConfigReader) {
  config.only('model_type', 'clip_text_model')
  const hidden_size = config.count('hidden_size', 512)
  const num_attention_heads = config.count('num_attention_heads', 8)
  config.checkDivides('heads', num_attention_heads, [hidden_size])
  return {
    hidden_size,
    intermediate_size: config.count('intermediate_size', 2048),
    num_hidden_layers: config.count('num_hidden_layers', 12, MOST_LAYERS),
    num_attention_heads,
    max_position_embeddings: config.count('max_position_embeddings', 77),
    vocab_size: config.count('vocab_size', 49408),
    layer_norm_eps: config.number('layer_norm_eps', 1e-5, 0, 1),
    hidden_act: config.only('hidden_act', 'quick_gelu', 'gelu'),
  } satisfies NetworkConfig
}

export type TextEncoderConfig = ReturnType<typeof textEncoderConfig>

/** transformers' CLIPTextConfig of a text encoder with a projection of the pooled text. */
export function pooledTextEncoderConfig(config: ConfigReader) {
  return { ...textEncoderConfig(config), projection_dim: config.count('projection_dim', 512) } satisfies NetworkConfig
}

/** diffusers' AutoencoderKL. */
export function vaeConfig(config: ConfigReader) {
  config.only('_class_name', 'AutoencoderKL')
  for (const key of ['latents_mean', 'latents_std', 'shift_factor']) config.only(key, null)
  for (const key of ['mid_block_add_attention', 'use_quant_conv', 'use_post_quant_conv']) config.only(key, true)
  config.only('act_fn', 'silu')
  const block_out_channels = config.counts('block_out_channels', [64])
  config.only('down_block_types', new Array<string>(block_out_channels.length).fill('DownEncoderBlock2D'))
  config.only('up_block_types', new Array<string>(block_out_channels.length).fill('UpDecoderBlock2D'))
  const norm_num_groups = config.count('norm_num_groups', 32)
  config.checkDivides('groups', norm_num_groups, block_out_channels)
  return {
    in_channels: config.only('in_channels', 3),
    out_channels: config.only('out_channels', 3),
    latent_channels: config.count('latent_channels', 4),
    block_out_channels,
    layers_per_block: config.count('layers_per_block', 1, MOST_LAYERS),
    norm_num_groups,
  } satisfies NetworkConfig
}

export type VaeConfig = ReturnType<typeof vaeConfig>

/** At 0 nothing is learned, at 1 nothing of the image is left. */
const [LEAST_BETA, MOST_BETA] = [1e-9, 0.999]

/** diffusers' schedulers of models whose noise has other levels, as Playground 2.5; their configs have no betas. */
const OTHER_NOISE = /^(EDM|Cosine|FlowMatch)/

/** `predictionTypes`: those that the model's family may have, the default first. */
export function schedulerConfig(config: ConfigReader, predictionTypes: PredictionType[]): SchedulerConfig {
  const { _class_name: kind } = config.json
  if (typeof kind === 'string' && OTHER_NOISE.test(kind))
    throw unsupported(
      `Expected a scheduler with betas for _class_name in ${config.path} but received ${shown(kind)}, which is not supported`,
    )
  config.only('trained_betas', null)
  config.only('thresholding', false)
  const numTrainTimesteps = config.count('num_train_timesteps', 1000)
  const rescaleBetasZeroSnr = config.flag('rescale_betas_zero_snr', false)
  return {
    numTrainTimesteps,
    betaStart: config.number('beta_start', 0.0001, LEAST_BETA, MOST_BETA),
    betaEnd: config.number('beta_end', 0.02, LEAST_BETA, MOST_BETA),
    betaSchedule: config.only('beta_schedule', 'linear', 'scaled_linear'),
    predictionType: config.only('prediction_type', ...predictionTypes),
    rescaleBetasZeroSnr,
    // Where the SNR ends at zero, a picture has to begin at the last timestep; no config of diffusers' that knows the one lacks the other.
    timestepSpacing: rescaleBetasZeroSnr
      ? config.only('timestep_spacing', 'trailing', 'leading', 'linspace')
      : config.only('timestep_spacing', 'leading', 'trailing', 'linspace'),
    stepsOffset: config.integer('steps_offset', 0, 0, numTrainTimesteps - 1),
    setAlphaToOne: config.flag('set_alpha_to_one', true),
    // Clipping harms latents; it is the default of DDIM alone, so a config written for another scheduler does not ask for it.
    clipSample: config.flag('clip_sample', config.json._class_name === 'DDIMScheduler'),
    clipSampleRange: config.number('clip_sample_range', 1, 0, MOST),
  }
}
