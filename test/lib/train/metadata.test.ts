import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { PredictionType } from '../../../lib/models/configs.js'
import { sd1 } from '../../../lib/models/sd1.js'
import { resolveTrainOptions, type TrainOptions } from '../../../lib/options/resolve.js'
import { bucketInfo, tagFrequency, trainingMetadata } from '../../../lib/train/metadata.js'
import { optimizers } from '../../../lib/train/optimizers.js'
import type { TrainingImage } from '../../../lib/train/training-images.js'
import { readSchedules, schedulerOf } from '../../fixtures/schedules.js'

function image(
  folder: string,
  caption: string,
  repeats: number,
  [width, height]: [number, number],
  [w, h]: [number, number],
): TrainingImage {
  return { path: 'x', folder, caption, repeats, width, height, bucket: { width: w, height: h, resized: { width: w, height: h } } }
}

const images = [
  image('3_dog', 'Dog, grass', 3, [600, 400], [576, 448]),
  image('3_dog', 'dog,  ball,, ', 3, [512, 512], [512, 512]),
  image('1_cat', 'cat', 1, [100, 100], [512, 512]),
]

function metadata(given: Partial<TrainOptions>, step = 9, predictionType: PredictionType = 'epsilon'): Record<string, string> {
  const options = resolveTrainOptions({ model: 'm', images: 'i', name: 'my style', rank: 8, alpha: 4, ...given })
  const model = { name: 'sd15', family: sd1, scheduler: { ...schedulerOf(readSchedules().alphas[0]!.config), predictionType } }
  const hashes = { legacyHash: '6ce01616', hash: 'a'.repeat(64) }
  const run = { sessionId: 77, startedAt: 1_700_000_000.25 }
  const precision = options.precision === 'auto' ? ('f32' as const) : options.precision
  const batches = { batchesPerEpoch: 7, updatesPerEpoch: 7 }
  const info = { options, precision, optimizer: optimizers.adamw, images, run, steps: 20, batches, model, hashes }
  return trainingMetadata(info, step, 1_700_000_100)
}

test('every value is a string, and what tools read is there as kohya writes it', () => {
  const written = metadata({ precision: 'bf16', flip: true, clipSkip: 2, lrWarmupSteps: 5 })
  assert.ok(Object.values(written).every((value) => typeof value === 'string'))
  const expected: Record<string, string> = {
    ss_output_name: 'my style',
    ss_base_model_version: 'sd_v1',
    ss_v2: 'False',
    ss_network_module: 'networks.lora',
    ss_network_dim: '8',
    ss_network_alpha: '4',
    ss_network_dropout: 'None',
    ss_sd_model_name: 'sd15',
    ss_sd_model_hash: '6ce01616',
    ss_new_sd_model_hash: 'a'.repeat(64),
    ss_optimizer: 'torch.optim.adamw.AdamW(weight_decay=0.01)',
    ss_clip_skip: '2',
    ss_session_id: '77',
    ss_training_started_at: '1700000000.25',
    ss_training_finished_at: '1700000100',
    ss_num_train_images: '7',
    ss_num_batches_per_epoch: '7',
    ss_num_epochs: '3',
    ss_steps: '9',
    ss_epoch: '2',
    ss_max_train_steps: '20',
    ss_mixed_precision: 'bf16',
    ss_flip_aug: 'True',
    ss_lr_scheduler: 'constant_with_warmup',
    ss_lr_warmup_steps: '5',
    'modelspec.sai_model_spec': '1.0.1',
    'modelspec.architecture': 'stable-diffusion-v1/lora',
    'modelspec.implementation': 'diffusers',
    'modelspec.title': 'my style',
    'modelspec.resolution': '512x512',
    'modelspec.prediction_type': 'epsilon',
    'modelspec.encoder_layer': '2',
  }
  for (const [key, value] of Object.entries(expected)) assert.equal(written[key], value, key)
  assert.match(written['modelspec.date'] ?? '', /^2023-11-1[45]T\d\d:\d\d:00$/)
})

test("modelspec's word for v-prediction is v", () => {
  assert.equal(metadata({}, 9, 'v_prediction')['modelspec.prediction_type'], 'v')
})

test('the keys that PEFT readers take for theirs are not there', () => {
  assert.ok(!Object.keys(metadata({})).some((key) => key.includes('adapter_metadata')))
})

test('without clip skip, warm-up and lower precision they are none, constant and no', () => {
  const written = metadata({})
  assert.equal(written.ss_clip_skip, 'None')
  assert.equal(written.ss_lr_scheduler, 'constant')
  assert.equal(written.ss_mixed_precision, 'no')
  assert.ok(!('modelspec.encoder_layer' in written))
})

test('tags are counted by folder, in lower case, empty ones left out', () => {
  const expected = { '3_dog': { dog: 2, grass: 1, ball: 1 }, '1_cat': { cat: 1 } }
  assert.deepEqual(tagFrequency(images), expected)
  assert.deepEqual(JSON.parse(metadata({}).ss_tag_frequency ?? ''), expected)
})

test('buckets count images with repeats, smallest first; folders without', () => {
  const info = bucketInfo(images)
  assert.deepEqual(info.buckets, { 0: { resolution: [512, 512], count: 4 }, 1: { resolution: [576, 448], count: 3 } })
  assert.ok(Math.abs(info.mean_img_ar_error - (1.5 - 576 / 448) / 3) < 1e-12)
  const written = metadata({})
  assert.deepEqual(JSON.parse(written.ss_bucket_info ?? ''), JSON.parse(JSON.stringify(info)))
  assert.equal(metadata({ buckets: false }).ss_bucket_info, 'null')
  const folders = { '3_dog': { n_repeats: 3, img_count: 2 }, '1_cat': { n_repeats: 1, img_count: 1 } }
  assert.deepEqual(JSON.parse(written.ss_dataset_dirs ?? ''), folders)
})
