/**
 * The metadata of a LoRA file: kohya's `ss_*` (kohya-ss/sd-scripts:train_network.py), and `modelspec.*` 1.0.1
 * (kohya-ss/sd-scripts:library/sai_model_spec.py). All values are strings; booleans, null and floats are written as Python writes them.
 */

import { basename } from 'node:path'
import type { Batches } from '../data/batches.js'
import { type Model, predictsV } from '../models/model.js'
import type { SessionOptions } from '../native.js'
import { kohyaScheduler } from '../options/lr-schedulers.js'
import type { ResolvedTrainOptions } from '../options/resolve.js'
import { CHUNK_TOKENS } from '../options/table.js'
import { version } from '../version.js'
import type { imagesMetadata } from './images-metadata.js'
import type { Optimizer } from './optimizers.js'
import type { CheckpointName } from './output.js'
import { float, text } from './python.js'
import type { RunId } from './state.js'

export interface TrainingInfo {
  options: ResolvedTrainOptions
  /** In which the session computes. */
  precision: SessionOptions['precision']
  optimizer: Optimizer
  /** See `imagesMetadata`. */
  images: Awaited<ReturnType<typeof imagesMetadata>>
  run: RunId
  /** Updates of the whole run. */
  steps: number
  batches: Pick<Batches, 'batchesPerEpoch' | 'updatesPerEpoch'>
  model: Pick<Model, 'name' | 'family' | 'scheduler'>
  /** `Model.hash` and `Model.legacyHash`. */
  hashes: FileHashes
  /** Of the VAE in place of the model's, if there is one. */
  vaeHashes?: FileHashes | undefined
}

/** The sha256 of weight files, and A1111's old hash of the first. */
export interface FileHashes {
  hash: string
  legacyHash: string
}

type Value = string | number | boolean | null

/** Formats a Unix time as Python's `datetime.isoformat` of a local time without microseconds. */
function localDate(time: number): string {
  const date = new Date(time * 1000)
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 19)
}

/** Returns kohya's `ss_epoch`: of a checkpoint by steps, and of an early end, how many epochs were complete before its last update. */
function epochOf(name: CheckpointName, step: number, epochs: number, updatesPerEpoch: number): number {
  if (name === 'last') return epochs
  return 'epoch' in name ? name.epoch : Math.floor((step - 1) / updatesPerEpoch)
}

/** Writes one rate, or a list of them, as Python writes it. */
function rates(all: number[]): string {
  return all.length === 1 ? float(all[0]!) : `[${all.map(float).join(', ')}]`
}

/** Returns what kohya writes of `--network_args`, whose values are texts; nothing where there are none. */
function networkArgs({ convRank, convAlpha }: ResolvedTrainOptions): Record<string, Value> {
  if (convRank === undefined) return {}
  return { network_args: `{"conv_dim": "${convRank}", "conv_alpha": "${convAlpha}"}` }
}

/** Returns what kohya writes of `--vae`; nothing where it is left out. */
function vaeValues({ vae }: ResolvedTrainOptions, hashes: FileHashes | undefined): Record<string, Value> {
  if (vae === undefined || !hashes) return {}
  return { vae_hash: hashes.legacyHash, new_vae_hash: hashes.hash, vae_name: basename(vae) }
}

/** Returns the metadata of the LoRA `name`, saved after update `step` at `savedAt`, Unix time in seconds, without the LoRA's own hashes. */
export function trainingMetadata(info: TrainingInfo, name: CheckpointName, step: number, savedAt: number): Record<string, string> {
  const { options, precision, optimizer, images, run, steps, batches, model, hashes, vaeHashes } = info
  const { baseModelVersion, v2, architecture, implementation } = model.family.metadata(predictsV(model))
  const epochs = Math.ceil(steps / batches.updatesPerEpoch)
  const values: Record<string, Value> = {
    session_id: run.sessionId,
    training_started_at: float(run.startedAt),
    training_finished_at: float(savedAt),
    output_name: options.name,
    learning_rate: float(options.learningRate),
    unet_lr: null,
    text_encoder_lr: options.textEncoderLr ? rates(options.textEncoderLr) : null,
    ...images,
    num_validation_images: 0,
    num_reg_images: 0,
    num_batches_per_epoch: batches.batchesPerEpoch,
    num_epochs: epochs,
    steps: step,
    epoch: epochOf(name, step, epochs, batches.updatesPerEpoch),
    max_train_steps: steps,
    batch_size_per_device: options.batchSize,
    total_batch_size: options.batchSize * options.gradientAccumulation,
    gradient_accumulation_steps: options.gradientAccumulation,
    gradient_checkpointing: options.gradientCheckpointing,
    lr_scheduler: kohyaScheduler(options.lrScheduler, options.lrWarmupSteps),
    lr_warmup_steps: options.lrWarmupSteps,
    optimizer: optimizer.title(options),
    max_grad_norm: float(options.maxGradNorm),
    network_module: 'networks.lora',
    network_dim: options.rank,
    network_alpha: float(options.alpha),
    network_dropout: null,
    ...networkArgs(options),
    mixed_precision: precision === 'f32' ? 'no' : precision,
    full_fp16: false,
    fp8_base: false,
    fp8_base_unet: false,
    lowram: false,
    v2,
    base_model_version: baseModelVersion,
    sd_model_name: model.name,
    sd_model_hash: hashes.legacyHash,
    new_sd_model_hash: hashes.hash,
    ...vaeValues(options, vaeHashes),
    clip_skip: options.clipSkip > 1 ? options.clipSkip : null,
    max_token_length: options.maxTokenLength > CHUNK_TOKENS ? options.maxTokenLength : null,
    cache_latents: true,
    seed: options.seed,
    noise_offset: null,
    multires_noise_iterations: null,
    multires_noise_discount: '0.3',
    noise_offset_random_strength: false,
    adaptive_noise_scale: null,
    ip_noise_gamma: null,
    ip_noise_gamma_random_strength: false,
    zero_terminal_snr: model.scheduler.rescaleBetasZeroSnr,
    min_snr_gamma: null,
    debiased_estimation: false,
    scale_weight_norms: null,
    prior_loss_weight: '1.0',
    loss_type: 'l2',
    huber_schedule: 'snr',
    huber_scale: '1.0',
    huber_c: '0.1',
    caption_dropout_rate: '0.0',
    caption_dropout_every_n_epochs: 0,
    caption_tag_dropout_rate: '0.0',
    shuffle_caption: false,
    keep_tokens: 0,
    color_aug: false,
    face_crop_aug_range: null,
    resize_interpolation: null,
    flip_aug: options.flip,
    random_crop: options.randomCrop,
    resolution: `(${options.resolution}, ${options.resolution})`,
    enable_bucket: options.buckets,
    bucket_no_upscale: options.bucketNoUpscale,
    validation_seed: null,
    validation_split: '0.0',
    max_validation_steps: null,
    validate_every_n_epochs: null,
    validate_every_n_steps: null,
    training_comment: null,
    sd_scripts_commit_hash: '(unknown)',
  }
  const spec: Record<string, string> = {
    sai_model_spec: '1.0.1',
    architecture,
    implementation,
    implementation_version: `lorafuse/${version()}`,
    title: options.name,
    resolution: `${options.resolution}x${options.resolution}`,
    date: localDate(savedAt),
    prediction_type: predictsV(model) ? 'v' : model.scheduler.predictionType,
    ...(options.clipSkip > 1 ? { encoder_layer: String(options.clipSkip) } : {}),
  }
  return Object.fromEntries([
    ...Object.entries(values).map(([key, value]) => [`ss_${key}`, text(value)]),
    ...Object.entries(spec).map(([key, value]) => [`modelspec.${key}`, value]),
  ])
}
