import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { PredictionType } from '../../../lib/models/configs.js'
import type { Family } from '../../../lib/models/model.js'
import { sd1 } from '../../../lib/models/sd1.js'
import { sd2 } from '../../../lib/models/sd2.js'
import { sdxl } from '../../../lib/models/sdxl.js'
import { resolveTrainOptions, type TrainOptions } from '../../../lib/options/resolve.js'
import { trainTable } from '../../../lib/options/table.js'
import { bucketInfo, datasetDirs, imagesMetadata, tagFrequency } from '../../../lib/train/images-metadata.js'
import { trainingMetadata } from '../../../lib/train/metadata.js'
import { optimizers } from '../../../lib/train/optimizers.js'
import type { CheckpointName } from '../../../lib/train/output.js'
import { float } from '../../../lib/train/python.js'
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

interface Moment {
  name?: CheckpointName
  step?: number
  predictionType?: PredictionType
  family?: Family
  rescaleBetasZeroSnr?: boolean
}

async function metadata(given: Partial<TrainOptions>, moment: Moment = {}): Promise<Record<string, string>> {
  const { name = 'last', step = 20, predictionType = 'epsilon', family = sd1, rescaleBetasZeroSnr = false } = moment
  const options = resolveTrainOptions({ model: 'm', images: 'i', name: 'my style', rank: 8, alpha: 4, ...given })
  const scheduler = { ...schedulerOf(readSchedules().alphas[0]!.config), predictionType, rescaleBetasZeroSnr }
  const model = { name: 'sd15', family, scheduler }
  const hashes = { legacyHash: '6ce01616', hash: 'a'.repeat(64) }
  const run = { sessionId: 77, startedAt: 1_700_000_000.25 }
  const precision = options.precision === 'auto' ? ('f32' as const) : options.precision
  const batches = { batchesPerEpoch: 7, updatesPerEpoch: 7 }
  const described = await imagesMetadata(images, options)
  const vaeHashes = options.vae === undefined ? undefined : { legacyHash: 'abcdef01', hash: 'b'.repeat(64) }
  const info = { options, precision, optimizer: optimizers.adamw, images: described, run, steps: 20, batches, model, hashes, vaeHashes }
  return trainingMetadata(info, name, step, 1_700_000_100)
}

test('every value is a string, and what tools read is there as kohya writes it', async () => {
  const written = await metadata({ precision: 'bf16', flip: true, clipSkip: 2, lrWarmupSteps: 5 })
  assert.ok(Object.values(written).every((value) => typeof value === 'string'))
  const expected: Record<string, string> = {
    ss_output_name: 'my style',
    ss_base_model_version: 'sd_v1',
    ss_v2: 'False',
    ss_network_module: 'networks.lora',
    ss_network_dim: '8',
    ss_network_alpha: '4.0',
    ss_network_dropout: 'None',
    ss_sd_model_name: 'sd15',
    ss_sd_model_hash: '6ce01616',
    ss_new_sd_model_hash: 'a'.repeat(64),
    ss_optimizer: 'torch.optim.adamw.AdamW(weight_decay=0.01)',
    ss_clip_skip: '2',
    ss_session_id: '77',
    ss_training_started_at: '1700000000.25',
    ss_training_finished_at: '1700000100.0',
    ss_num_train_images: '7',
    ss_num_batches_per_epoch: '7',
    ss_num_epochs: '3',
    ss_steps: '20',
    ss_epoch: '3',
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

test("adapters of convolutions are kohya's network arguments, and recomputation its gradient checkpointing", async () => {
  const written = await metadata({ convRank: 4, convAlpha: 1.5, gradientCheckpointing: true })
  assert.equal(written.ss_network_args, '{"conv_dim": "4", "conv_alpha": "1.5"}')
  assert.equal(written.ss_gradient_checkpointing, 'True')
  const without = await metadata({})
  assert.equal(without.ss_network_args, undefined)
  assert.equal(without.ss_gradient_checkpointing, 'False')
})

/** What `train_network.py` of sd-scripts 0.10.1 writes for a run of 3 epochs with `--learning_rate 1e-5 --network_dim 8 --network_alpha 4`. */
const kohya = {
  ss_adaptive_noise_scale: 'None',
  ss_base_model_version: 'sd_v1',
  ss_batch_size_per_device: '1',
  ss_bucket_no_upscale: 'False',
  ss_cache_latents: 'True',
  ss_caption_dropout_every_n_epochs: '0',
  ss_caption_dropout_rate: '0.0',
  ss_caption_tag_dropout_rate: '0.0',
  ss_clip_skip: 'None',
  ss_color_aug: 'False',
  ss_debiased_estimation: 'False',
  ss_enable_bucket: 'True',
  ss_epoch: '3',
  ss_face_crop_aug_range: 'None',
  ss_flip_aug: 'False',
  ss_fp8_base: 'False',
  ss_fp8_base_unet: 'False',
  ss_full_fp16: 'False',
  ss_gradient_accumulation_steps: '1',
  ss_gradient_checkpointing: 'False',
  ss_huber_c: '0.1',
  ss_huber_scale: '1.0',
  ss_huber_schedule: 'snr',
  ss_ip_noise_gamma: 'None',
  ss_ip_noise_gamma_random_strength: 'False',
  ss_keep_tokens: '0',
  ss_learning_rate: '1e-05',
  ss_loss_type: 'l2',
  ss_lowram: 'False',
  ss_lr_scheduler: 'constant',
  ss_lr_warmup_steps: '0',
  ss_max_bucket_reso: '1024',
  ss_max_grad_norm: '1.0',
  ss_max_token_length: 'None',
  ss_max_train_steps: '20',
  ss_max_validation_steps: 'None',
  ss_min_bucket_reso: '256',
  ss_min_snr_gamma: 'None',
  ss_mixed_precision: 'no',
  ss_multires_noise_discount: '0.3',
  ss_multires_noise_iterations: 'None',
  ss_network_alpha: '4.0',
  ss_network_dim: '8',
  ss_network_dropout: 'None',
  ss_network_module: 'networks.lora',
  ss_new_sd_model_hash: 'a'.repeat(64),
  ss_noise_offset: 'None',
  ss_noise_offset_random_strength: 'False',
  ss_num_batches_per_epoch: '7',
  ss_num_epochs: '3',
  ss_num_reg_images: '0',
  ss_num_train_images: '7',
  ss_num_validation_images: '0',
  ss_optimizer: 'torch.optim.adamw.AdamW(weight_decay=0.01)',
  ss_output_name: 'my style',
  ss_prior_loss_weight: '1.0',
  ss_random_crop: 'False',
  ss_reg_dataset_dirs: '{}',
  ss_resize_interpolation: 'None',
  ss_resolution: '(512, 512)',
  ss_scale_weight_norms: 'None',
  ss_sd_model_hash: '6ce01616',
  ss_sd_model_name: 'sd15',
  ss_sd_scripts_commit_hash: '(unknown)',
  ss_seed: '0',
  ss_session_id: '77',
  ss_shuffle_caption: 'False',
  ss_steps: '20',
  ss_text_encoder_lr: 'None',
  ss_total_batch_size: '1',
  ss_training_comment: 'None',
  ss_training_finished_at: '1700000100.0',
  ss_training_started_at: '1700000000.25',
  ss_unet_lr: 'None',
  ss_v2: 'False',
  ss_validate_every_n_epochs: 'None',
  ss_validate_every_n_steps: 'None',
  ss_validation_seed: 'None',
  ss_validation_split: '0.0',
  ss_zero_terminal_snr: 'False',
}

test("the keys are those of kohya's run, and so are the values that do not depend on the images", async () => {
  const written = await metadata({ learningRate: 1e-5 })
  const own = Object.entries(written).filter(([key]) => key.startsWith('ss_'))
  const ofImages = ['ss_bucket_info', 'ss_dataset_dirs', 'ss_tag_frequency']
  assert.deepEqual(own.map(([key]) => key).sort(), [...Object.keys(kohya), ...ofImages].sort())
  assert.deepEqual(Object.fromEntries(own.filter(([key]) => !ofImages.includes(key))), kohya)
})

test("a VAE in place of the model's has its name and hashes, as kohya writes them", async () => {
  const { ss_vae_name, ss_vae_hash, ss_new_vae_hash } = await metadata({ vae: '/models/vae/mse.safetensors' })
  assert.deepEqual([ss_vae_name, ss_vae_hash, ss_new_vae_hash], ['mse.safetensors', 'abcdef01', 'b'.repeat(64)])
})

test('sides of buckets are the ones in use, as kohya rounds them; None without buckets', async () => {
  const sides = ({ ss_min_bucket_reso: min, ss_max_bucket_reso: max }: Record<string, string>) => [min, max]
  assert.deepEqual(sides(await metadata({ bucketMin: 300, bucketMax: 1000 })), ['256', '1024'])
  assert.deepEqual(sides(await metadata({ buckets: false })), ['None', 'None'])
})

test('the epoch of a checkpoint by steps counts those that were complete before its last step, that of one by epochs its own', async () => {
  const moments: [CheckpointName, number, string][] = [
    [{ step: 1 }, 1, '0'],
    [{ step: 7 }, 7, '0'],
    [{ step: 8 }, 8, '1'],
    [{ epoch: 1 }, 7, '1'],
    ['last', 20, '3'],
  ]
  for (const [name, step, epoch] of moments) assert.equal((await metadata({}, { name, step })).ss_epoch, epoch)
})

test('floats are written as Python writes them', () => {
  const expected = ['0.0', '1.0', '4.0', '0.1', '0.0001', '0.00012', '1e-05', '1.5e-07', '1e-10', '123456.0', '1000000000000000.0', '1e+16']
  for (const written of [...expected, '1.2e+22', '0.30000000000000004', '1700000000.25', '-2.5'])
    assert.equal(float(Number(written)), written)
})

test("modelspec's word for v-prediction is v", async () => {
  assert.equal((await metadata({}, { predictionType: 'v_prediction' }))['modelspec.prediction_type'], 'v')
})

test('each family is called what kohya calls it, and tools tell SD2 and SDXL by it', async () => {
  const keys = ['ss_base_model_version', 'ss_v2', 'modelspec.architecture', 'modelspec.implementation', 'modelspec.prediction_type']
  const sgm = 'https://github.com/Stability-AI/generative-models'
  const cases: [Family, PredictionType, ...string[]][] = [
    [sd1, 'epsilon', 'sd_v1', 'False', 'stable-diffusion-v1/lora', 'diffusers', 'epsilon'],
    [sd1, 'v_prediction', 'sd_v1_v', 'False', 'stable-diffusion-v1/lora', 'diffusers', 'v'],
    [sd2, 'epsilon', 'sd_v2', 'True', 'stable-diffusion-v2-512/lora', 'diffusers', 'epsilon'],
    [sd2, 'v_prediction', 'sd_v2_v', 'True', 'stable-diffusion-v2-768-v/lora', 'diffusers', 'v'],
    [sdxl, 'epsilon', 'sdxl_base_v1-0', 'False', 'stable-diffusion-xl-v1-base/lora', sgm, 'epsilon'],
    [sdxl, 'v_prediction', 'sdxl_base_v1-0', 'False', 'stable-diffusion-xl-v1-base/lora', sgm, 'v'],
  ]
  for (const [family, predictionType, ...expected] of cases) {
    const written = await metadata({ resolution: 1024 }, { family, predictionType })
    assert.deepEqual(
      keys.map((key) => written[key]),
      expected,
    )
    assert.equal(written['modelspec.resolution'], '1024x1024')
  }
  const long = await metadata({ maxTokenLength: 225 }, { predictionType: 'v_prediction', rescaleBetasZeroSnr: true })
  assert.deepEqual([long.ss_max_token_length, long.ss_zero_terminal_snr], ['225', 'True'])
})

// As sai_model_spec.py, determine_resolution, and train_network.py write them of `--resolution`.
test('the resolution is what was asked for, whatever the family, the buckets and the images are', async () => {
  const cases: [Partial<TrainOptions>, Moment, string][] = [
    [{ resolution: 512 }, {}, '512'],
    [{ resolution: 1024 }, { family: sdxl }, '1024'],
    [{ resolution: 512 }, { family: sdxl }, '512'],
    [{ resolution: 768, bucketNoUpscale: true }, { family: sd2 }, '768'],
    [{ resolution: 640, buckets: false }, {}, '640'],
    [{ resolution: 1000, bucketStep: 64, bucketMax: 2048 }, { family: sdxl }, '1000'],
  ]
  for (const [given, moment, side] of cases) {
    const { 'modelspec.resolution': spec, ss_resolution: written } = await metadata(given, moment)
    assert.deepEqual([spec, written], [`${side}x${side}`, `(${side}, ${side})`])
  }
  assert.equal(trainTable.resolution.kind.fromText?.('768,768'), 768)
  assert.throws(
    () => resolveTrainOptions({ model: 'm', images: 'i', resolution: trainTable.resolution.kind.fromText?.('768,512') as number }),
    {
      code: 'OPTION_INVALID',
      message: 'Expected a square\'s side, a whole number from 64 to 4096 for resolution but received "768,512"',
    },
  )
})

test('the keys that PEFT readers take for theirs are not there', async () => {
  assert.ok(!Object.keys(await metadata({})).some((key) => key.includes('adapter_metadata')))
})

test('without clip skip, warm-up and lower precision they are none, constant and no', async () => {
  const written = await metadata({})
  assert.equal(written.ss_clip_skip, 'None')
  assert.equal(written.ss_lr_scheduler, 'constant')
  assert.equal(written.ss_mixed_precision, 'no')
  assert.ok(!('modelspec.encoder_layer' in written))
})

test('tags are counted by folder, in lower case, empty ones left out', async () => {
  const expected = { '3_dog': { dog: 2, grass: 1, ball: 1 }, '1_cat': { cat: 1 } }
  assert.deepEqual(await tagFrequency(images), expected)
  assert.deepEqual(JSON.parse((await metadata({})).ss_tag_frequency ?? ''), expected)
})

test('buckets count images with repeats, smallest first; folders without', async () => {
  const info = await bucketInfo(images)
  assert.deepEqual(info.buckets, { 0: { resolution: [512, 512], count: 4 }, 1: { resolution: [576, 448], count: 3 } })
  assert.ok(Math.abs(info.mean_img_ar_error - (1.5 - 576 / 448) / 3) < 1e-12)
  const written = await metadata({})
  assert.deepEqual(JSON.parse(written.ss_bucket_info ?? ''), JSON.parse(JSON.stringify(info)))
  assert.equal((await metadata({ buckets: false })).ss_bucket_info, 'null')
  const folders = { '3_dog': { n_repeats: 3, img_count: 2 }, '1_cat': { n_repeats: 1, img_count: 1 } }
  assert.deepEqual(JSON.parse(written.ss_dataset_dirs ?? ''), folders)
})

test('of more tags, folders or buckets than a header may hold the most frequent stay', async () => {
  const caption = (i: number) => `a ${'photograph '.repeat(20)}number ${i}`
  const many = Array.from({ length: 20_000 }, (_, i) => ({
    folder: '1_all',
    caption: i % 100 === 0 ? `Often, ${'"é'.repeat(9)}` : caption(i),
  }))
  const giant = { folder: '2_odd', caption: 'x'.repeat(2 ** 20) }
  const kept = await tagFrequency([giant, giant, ...many])
  const all = kept['1_all']!
  assert.deepEqual([all.often, all['"é'.repeat(9)], all[caption(1).trim()]], [200, 200, 1])
  assert.ok(Object.keys(all).length > 1500 && kept['2_odd'] === undefined)
  const written = Buffer.byteLength(JSON.stringify(JSON.stringify(kept)))
  assert.ok(written > 350 * 1024 && written <= 448 * 1024, `${written}`)

  const folders = await datasetDirs(
    Array.from({ length: 5000 }, (_, i) => ({ folder: i % 5 === 0 ? '9_cats' : `1_folder ${i}`, repeats: 1 })),
  )
  assert.deepEqual(folders['9_cats'], { n_repeats: 1, img_count: 1000 })
  const bytes = Buffer.byteLength(JSON.stringify(JSON.stringify(folders)))
  assert.ok(bytes > 32 * 1024 && bytes <= 64 * 1024, `${bytes}`)

  const sizes = Array.from({ length: 5000 }, (_, i) => image('f', '', 1, [8, 8], [8 * (1 + (i % 100)), 8 * (1 + Math.floor(i / 100))]))
  const info = await bucketInfo([...sizes, sizes[77]!])
  assert.deepEqual(Object.values(info.buckets).find(({ count }) => count === 2)?.resolution, [624, 8])
  const length = Buffer.byteLength(JSON.stringify(JSON.stringify(info)))
  assert.ok(length > 32 * 1024 && length <= 64 * 1024, `${length}`)
})

test('counting many tags and buckets lets other work have its turn at each of them, kept or not', async () => {
  let turns = 0
  const turn = async () => void turns++
  const captions = (length: number) => Array.from({ length: 2 }, (_, i) => Array.from({ length }, (_, j) => `tag ${i} ${j}`).join())
  const of = (length: number) => captions(length).map((caption) => ({ folder: 'x', caption }))
  // Each tag is counted, listed, sorted and measured; then, where not all fit, those that do are picked.
  await tagFrequency(of(1000), turn)
  assert.equal(turns, 4 * 2000)
  turns = 0
  await tagFrequency(of(20_000), turn)
  assert.equal(turns, 5 * 40_000)
  turns = 0
  await bucketInfo(
    Array.from({ length: 1000 }, (_, i) => image('f', '', 1, [8, 8], [8 * (i + 1), 8])),
    turn,
  )
  assert.equal(turns, 4 * 1000)
})

test('rates of text encoders are written as kohya writes one, or a list of them', async () => {
  assert.equal((await metadata({})).ss_text_encoder_lr, 'None')
  assert.equal((await metadata({ textEncoderLr: 5e-5 })).ss_text_encoder_lr, '5e-05')
  assert.equal((await metadata({ textEncoderLr: [5e-5, 1e-5] })).ss_text_encoder_lr, '[5e-05, 1e-05]')
})
