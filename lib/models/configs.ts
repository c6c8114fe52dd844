/**
 * What a checkpoint's config files say, with diffusers' and transformers' defaults; what the networks here do not compute is refused with
 * `UNSUPPORTED_MODEL`, nonsense with `MODEL_INVALID`.
 */
import { LorafuseError } from '../errors.js'
import type { TextEncoderConfig, UNetConfig, VaeConfig } from '../native.js'

/** Names as in diffusers' `scheduler/scheduler_config.json`. */
export interface SchedulerConfig {
  numTrainTimesteps: number
  betaStart: number
  betaEnd: number
  betaSchedule: 'linear' | 'scaled_linear'
  predictionType: 'epsilon'
  stepsOffset: number
  setAlphaToOne: boolean
  clipSample: boolean
}

export type Json = Record<string, unknown>

export function unsupported(problem: string): LorafuseError {
  return new LorafuseError('UNSUPPORTED_MODEL', `${problem}. Use a Stable Diffusion 1.x model`)
}

/** A JSON config: typed reads with defaults, null counting as absent, so that errors can name file and key. */
export class Config {
  constructor(
    readonly path: string,
    readonly json: Json,
  ) {}

  private fail(key: string, what: string): LorafuseError {
    return new LorafuseError('MODEL_INVALID', `Expected ${what} for ${key} in ${this.path} but received ${JSON.stringify(this.json[key])}`)
  }

  private read<Value>(key: string, fallback: Value, what: string, valid: (value: unknown) => boolean): Value {
    const value = this.json[key] ?? fallback
    if (!valid(value)) throw this.fail(key, what)
    return value as Value
  }

  number(key: string, fallback: number): number {
    return this.read(key, fallback, 'a number', (value) => typeof value === 'number' && Number.isFinite(value))
  }

  count(key: string, fallback: number): number {
    return this.read(key, fallback, 'a whole number of 1 or more', isCount)
  }

  counts(key: string, fallback: number[]): number[] {
    return this.read(key, fallback, 'a list of whole numbers', (value) => Array.isArray(value) && value.length > 0 && value.every(isCount))
  }

  /** A number for all of `length` blocks, or a list of one each. */
  countPerBlock(key: string, fallback: number, length: number): number[] {
    const value = this.json[key] ?? fallback
    if (!Array.isArray(value)) return new Array<number>(length).fill(this.count(key, fallback))
    if (value.length !== length) throw this.fail(key, `${length} numbers`)
    return this.counts(key, [])
  }

  flag(key: string, fallback: boolean): boolean {
    return this.read(key, fallback, 'true or false', (value) => typeof value === 'boolean')
  }

  names(key: string, fallback: string[]): string[] {
    return this.read(key, fallback, 'a list of names', (value) => Array.isArray(value) && value.every((name) => typeof name === 'string'))
  }

  /** Throws `UNSUPPORTED_MODEL` unless the key is absent or has one of the values; null and absent are the same. */
  only<Value>(key: string, ...values: Value[]): Value {
    const value = this.json[key] ?? values[0]
    if (!values.some((allowed) => JSON.stringify(allowed) === JSON.stringify(value))) {
      const wanted = values.map((allowed) => JSON.stringify(allowed)).join(' or ')
      throw unsupported(`Expected ${wanted} for ${key} in ${this.path} but received ${JSON.stringify(value)}, which is not supported`)
    }
    return value as Value
  }
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 1
}

/**
 * diffusers' UNet2DConditionModel; `attention_head_dim` counts heads
 * (huggingface/diffusers:src/diffusers/models/unets/unet_2d_condition.py).
 */
export function unetConfig(config: Config): UNetConfig {
  config.only('_class_name', 'UNet2DConditionModel')
  const nulls = [
    'class_embed_type',
    'num_class_embeds',
    'addition_embed_type',
    'encoder_hid_dim',
    'encoder_hid_dim_type',
    'time_cond_proj_dim',
  ]
  for (const key of [...nulls, 'time_embedding_dim', 'time_embedding_act_fn', 'timestep_post_act', 'cross_attention_norm'])
    config.only(key, null)
  const flags = [
    'dual_cross_attention',
    'only_cross_attention',
    'mid_block_only_cross_attention',
    'upcast_attention',
    'center_input_sample',
  ]
  for (const key of [...flags, 'resnet_skip_time_act', 'class_embeddings_concat']) config.only(key, false)
  for (const key of ['mid_block_scale_factor', 'resnet_out_scale_factor', 'downsample_padding', 'transformer_layers_per_block'])
    config.only(key, 1)
  for (const key of ['conv_in_kernel', 'conv_out_kernel']) config.only(key, 3)
  for (const key of ['resnet_time_scale_shift', 'attention_type']) config.only(key, 'default')
  config.only('act_fn', 'silu')
  config.only('time_embedding_type', 'positional')
  config.only('mid_block_type', 'UNetMidBlock2DCrossAttn')
  const blockOutChannels = config.counts('block_out_channels', [320, 640, 1280, 1280])
  const blocks = blockOutChannels.length
  const attention = (key: string, cross: string, plain: string, fallback: string[]) => {
    const types = config.names(key, fallback)
    const odd = types.find((type) => type !== cross && type !== plain)
    if (odd !== undefined || types.length !== blocks) {
      const received = odd ?? `${types.length} of them`
      throw unsupported(`Expected ${blocks} of ${cross} or ${plain} for ${key} in ${config.path} but received ${received}`)
    }
    return types.map((type) => type === cross)
  }
  const [down, up] = ['CrossAttnDownBlock2D', 'CrossAttnUpBlock2D']
  const headsKey = config.json.num_attention_heads == null ? 'attention_head_dim' : 'num_attention_heads'
  const heads = config.countPerBlock(headsKey, 8, blocks)
  const normNumGroups = config.count('norm_num_groups', 32)
  blockOutChannels.forEach((channels, i) => {
    for (const [name, parts] of [['heads', heads[i] as number] as const, ['groups', normNumGroups] as const]) {
      if (channels % parts === 0) continue
      throw new LorafuseError('MODEL_INVALID', `Expected ${name} that divide ${channels} channels in ${config.path} but received ${parts}`)
    }
  })
  return {
    inChannels: config.count('in_channels', 4),
    outChannels: config.count('out_channels', 4),
    blockOutChannels,
    downAttention: attention('down_block_types', down, 'DownBlock2D', [down, down, down, 'DownBlock2D']),
    upAttention: attention('up_block_types', up, 'UpBlock2D', ['UpBlock2D', up, up, up]),
    layersPerBlock: config.count('layers_per_block', 2),
    heads,
    crossAttentionDim: config.count('cross_attention_dim', 1280),
    normNumGroups,
    normEps: config.number('norm_eps', 1e-5),
    useLinearProjection: config.flag('use_linear_projection', false),
    flipSinToCos: config.flag('flip_sin_to_cos', true),
    freqShift: config.number('freq_shift', 0),
  }
}

/** transformers' CLIPTextConfig. */
export function textEncoderConfig(config: Config): TextEncoderConfig {
  config.only('model_type', 'clip_text_model')
  return {
    hiddenSize: config.count('hidden_size', 512),
    intermediateSize: config.count('intermediate_size', 2048),
    numHiddenLayers: config.count('num_hidden_layers', 12),
    numAttentionHeads: config.count('num_attention_heads', 8),
    maxPositionEmbeddings: config.count('max_position_embeddings', 77),
    vocabSize: config.count('vocab_size', 49408),
    layerNormEps: config.number('layer_norm_eps', 1e-5),
    hiddenAct: config.only('hidden_act', 'quick_gelu', 'gelu'),
  }
}

/** diffusers' AutoencoderKL. */
export function vaeConfig(config: Config): VaeConfig {
  config.only('_class_name', 'AutoencoderKL')
  for (const key of ['latents_mean', 'latents_std', 'shift_factor']) config.only(key, null)
  for (const key of ['mid_block_add_attention', 'use_quant_conv', 'use_post_quant_conv']) config.only(key, true)
  config.only('act_fn', 'silu')
  const blockOutChannels = config.counts('block_out_channels', [64])
  config.only('down_block_types', new Array<string>(blockOutChannels.length).fill('DownEncoderBlock2D'))
  config.only('up_block_types', new Array<string>(blockOutChannels.length).fill('UpDecoderBlock2D'))
  return {
    inChannels: config.only('in_channels', 3),
    outChannels: config.only('out_channels', 3),
    latentChannels: config.count('latent_channels', 4),
    blockOutChannels,
    layersPerBlock: config.count('layers_per_block', 1),
    normNumGroups: config.count('norm_num_groups', 32),
  }
}

export function schedulerConfig(config: Config): SchedulerConfig {
  config.only('trained_betas', null)
  for (const key of ['rescale_betas_zero_snr', 'thresholding']) config.only(key, false)
  return {
    numTrainTimesteps: config.count('num_train_timesteps', 1000),
    betaStart: config.number('beta_start', 0.0001),
    betaEnd: config.number('beta_end', 0.02),
    betaSchedule: config.only('beta_schedule', 'linear', 'scaled_linear'),
    predictionType: config.only('prediction_type', 'epsilon'),
    stepsOffset: config.number('steps_offset', 0),
    setAlphaToOne: config.flag('set_alpha_to_one', true),
    // Only DDIM's default is to clip, which would harm latents; a config made for another scheduler never meant it.
    clipSample: config.flag('clip_sample', config.json._class_name === 'DDIMScheduler'),
  }
}
