/**
 * The metadata of a LoRA file: kohya's `ss_*` (kohya-ss/sd-scripts:train_network.py), and `modelspec.*` 1.0.1
 * (kohya-ss/sd-scripts:library/sai_model_spec.py). All values are strings; booleans and null are written as Python writes them.
 */

import type { Batches } from '../data/batches.js'
import type { Model } from '../models/model.js'
import type { SessionOptions } from '../native.js'
import { kohyaScheduler } from '../options/lr-schedulers.js'
import type { ResolvedTrainOptions } from '../options/resolve.js'
import { version } from '../version.js'
import type { Optimizer } from './optimizers.js'
import type { RunId } from './state.js'
import type { TrainingImage } from './training-images.js'

export interface TrainingInfo {
  options: ResolvedTrainOptions
  /** In which the session computes. */
  precision: SessionOptions['precision']
  optimizer: Optimizer
  images: TrainingImage[]
  run: RunId
  /** Updates of the whole run. */
  steps: number
  batches: Pick<Batches, 'batchesPerEpoch' | 'updatesPerEpoch'>
  model: Pick<Model, 'name' | 'family' | 'scheduler'>
  /** `Model.hash` and `Model.legacyHash`. */
  hashes: { hash: string; legacyHash: string }
}

type Value = string | number | boolean | null

function text(value: Value): string {
  if (typeof value === 'boolean') return value ? 'True' : 'False'
  return value === null ? 'None' : String(value)
}

function count<Key>(counts: Map<Key, number>, key: Key, more = 1): void {
  counts.set(key, (counts.get(key) ?? 0) + more)
}

/** Counts the tags, lower-cased parts of captions between commas, of each folder. */
export function tagFrequency(images: TrainingImage[]): Record<string, Record<string, number>> {
  const folders = new Map<string, Map<string, number>>()
  for (const { folder, caption } of images) {
    const tags = folders.get(folder) ?? new Map<string, number>()
    folders.set(folder, tags)
    for (const tag of caption.split(',')) if (tag.trim() !== '') count(tags, tag.trim().toLowerCase())
  }
  return Object.fromEntries([...folders].map(([folder, tags]) => [folder, Object.fromEntries(tags)]))
}

/** Lists each bucket's size and number of images, repeats included, and the mean error of the images' aspect ratios. */
export function bucketInfo(images: TrainingImage[]): {
  buckets: Record<string, { resolution: number[]; count: number }>
  mean_img_ar_error: number
} {
  const sizes = new Map<string, number>()
  let error = 0
  for (const { bucket, width, height, repeats } of images) {
    count(sizes, `${bucket.width}x${bucket.height}`, repeats)
    error += Math.abs(bucket.width / bucket.height - width / height)
  }
  const buckets = [...sizes]
    .map(([size, count]) => ({ resolution: size.split('x').map(Number), count }))
    .sort(({ resolution: [a = 0, b = 0] }, { resolution: [c = 0, d = 0] }) => a - c || b - d)
  return { buckets: Object.fromEntries(buckets.entries()), mean_img_ar_error: error / images.length }
}

function datasetDirs(images: TrainingImage[]): Record<string, { n_repeats: number; img_count: number }> {
  const folders: Record<string, { n_repeats: number; img_count: number }> = {}
  for (const { folder, repeats } of images) {
    folders[folder] = { n_repeats: repeats, img_count: (folders[folder]?.img_count ?? 0) + 1 }
  }
  return folders
}

/** Formats a Unix time as Python's `datetime.isoformat` of a local time without microseconds. */
function localDate(time: number): string {
  const date = new Date(time * 1000)
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 19)
}

/** Returns the metadata of a LoRA saved after update `step` at `savedAt`, Unix time in seconds, without the LoRA's own hashes. */
export function trainingMetadata(info: TrainingInfo, step: number, savedAt: number): Record<string, string> {
  const { options, precision, optimizer, images, run, steps, batches, model, hashes } = info
  const { baseModelVersion, v2, architecture } = model.family.metadata
  const values: Record<string, Value> = {
    session_id: run.sessionId,
    training_started_at: run.startedAt,
    training_finished_at: savedAt,
    output_name: options.name,
    learning_rate: options.learningRate,
    unet_lr: options.learningRate,
    text_encoder_lr: null,
    num_train_images: images.reduce((sum, { repeats }) => sum + repeats, 0),
    num_reg_images: 0,
    num_batches_per_epoch: batches.batchesPerEpoch,
    num_epochs: Math.ceil(steps / batches.updatesPerEpoch),
    steps: step,
    epoch: Math.max(1, Math.ceil(step / batches.updatesPerEpoch)),
    max_train_steps: steps,
    batch_size_per_device: options.batchSize,
    total_batch_size: options.batchSize * options.gradientAccumulation,
    gradient_accumulation_steps: options.gradientAccumulation,
    gradient_checkpointing: false,
    lr_scheduler: kohyaScheduler(options.lrScheduler, options.lrWarmupSteps),
    lr_warmup_steps: options.lrWarmupSteps,
    optimizer: optimizer.title(options),
    max_grad_norm: options.maxGradNorm,
    network_module: 'networks.lora',
    network_dim: options.rank,
    network_alpha: options.alpha,
    network_dropout: null,
    mixed_precision: precision === 'f32' ? 'no' : precision,
    v2,
    base_model_version: baseModelVersion,
    sd_model_name: model.name,
    sd_model_hash: hashes.legacyHash,
    new_sd_model_hash: hashes.hash,
    clip_skip: options.clipSkip > 1 ? options.clipSkip : null,
    max_token_length: null,
    cache_latents: true,
    seed: options.seed,
    noise_offset: null,
    multires_noise_iterations: null,
    multires_noise_discount: 0.3,
    min_snr_gamma: null,
    prior_loss_weight: 1,
    loss_type: 'l2',
    caption_dropout_rate: 0,
    caption_dropout_every_n_epochs: 0,
    caption_tag_dropout_rate: 0,
    shuffle_caption: false,
    keep_tokens: 0,
    color_aug: false,
    flip_aug: options.flip,
    random_crop: options.randomCrop,
    resolution: `(${options.resolution}, ${options.resolution})`,
    enable_bucket: options.buckets,
    bucket_no_upscale: options.bucketNoUpscale,
    min_bucket_reso: options.bucketMin,
    max_bucket_reso: options.bucketMax,
    bucket_info: JSON.stringify(options.buckets ? bucketInfo(images) : null),
    tag_frequency: JSON.stringify(tagFrequency(images)),
    dataset_dirs: JSON.stringify(datasetDirs(images)),
    reg_dataset_dirs: '{}',
  }
  const spec: Record<string, string> = {
    sai_model_spec: '1.0.1',
    architecture,
    implementation: 'diffusers',
    implementation_version: `lorafuse/${version()}`,
    title: options.name,
    resolution: `${options.resolution}x${options.resolution}`,
    date: localDate(savedAt),
    prediction_type: model.scheduler.predictionType === 'v_prediction' ? 'v' : model.scheduler.predictionType,
    ...(options.clipSkip > 1 ? { encoder_layer: String(options.clipSkip) } : {}),
  }
  return Object.fromEntries([
    ...Object.entries(values).map(([key, value]) => [`ss_${key}`, text(value)]),
    ...Object.entries(spec).map(([key, value]) => [`modelspec.${key}`, value]),
  ])
}
