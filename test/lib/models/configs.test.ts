import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { chmod, mkdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { LorafuseError } from '../../../lib/errors.js'
import { readModel } from '../../../lib/models/read.js'
import { changeConfig as change, copyModel } from '../../fixtures/models.js'
import { long } from '../../long.js'

const foreign: [string, string, Record<string, unknown>][] = [
  ['scale-shift norms', 'unet/config.json', { resnet_time_scale_shift: 'scale_shift' }],
  ['class embeddings', 'unet/config.json', { class_embed_type: 'timestep' }],
  ['dual cross attention', 'unet/config.json', { dual_cross_attention: true }],
  ['added embeddings', 'unet/config.json', { addition_embed_type: 'image' }],
  ['an unknown block', 'unet/config.json', { down_block_types: ['CrossAttnDownBlock2D', 'AttnDownBlock2D', 'DownBlock2D'] }],
  ['a missing block', 'unet/config.json', { up_block_types: ['UpBlock2D', 'CrossAttnUpBlock2D'] }],
  ['another middle', 'unet/config.json', { mid_block_type: 'UNetMidBlock2DSimpleCrossAttn' }],
  ['another network', 'unet/config.json', { _class_name: 'Transformer2DModel' }],
  ['another text encoder', 'unet/config.json', { cross_attention_dim: 64 }],
  ['another activation', 'text_encoder/config.json', { hidden_act: 'relu' }],
  ['another kind of text encoder', 'text_encoder/config.json', { model_type: 't5' }],
  [
    'a VAE with attention blocks',
    'vae/config.json',
    { down_block_types: ['AttnDownEncoderBlock2D', 'DownEncoderBlock2D', 'DownEncoderBlock2D', 'DownEncoderBlock2D'] },
  ],
  ['shifted latents', 'vae/config.json', { shift_factor: 0.1 }],
  ['prediction of the sample', 'scheduler/scheduler_config.json', { prediction_type: 'sample' }],
  ['cosine betas', 'scheduler/scheduler_config.json', { beta_schedule: 'squaredcos_cap_v2' }],
  ["Playground's noise", 'scheduler/scheduler_config.json', { _class_name: 'EDMDPMSolverMultistepScheduler' }],
  ['timesteps by a word unheard of', 'scheduler/scheduler_config.json', { timestep_spacing: 'random' }],
]
for (const [name, file, changes] of foreign) {
  test(`${name} is refused by key and value`, async (t) => {
    const folder = await copyModel(t)
    await change(folder, file, changes)
    const [key] = Object.keys(changes) as [string]
    await assert.rejects(readModel(folder), { code: 'MODEL_UNSUPPORTED', message: new RegExp(key) })
  })
}

test('nonsense in a config is refused by key', async (t) => {
  const cases: [string, Record<string, unknown>][] = [
    ['unet/config.json', { block_out_channels: 'many' }],
    ['unet/config.json', { layers_per_block: 1.5 }],
    ['unet/config.json', { norm_eps: '1e-5' }],
    ['unet/config.json', { attention_head_dim: [4, 4] }],
    ['unet/config.json', { attention_head_dim: 7 }],
    ['unet/config.json', { flip_sin_to_cos: 1 }],
    ['text_encoder/config.json', { hidden_size: 0 }],
    ['vae/config.json', { scaling_factor: null, latent_channels: 'four' }],
  ]
  for (const [file, changes] of cases) {
    const folder = await copyModel(t)
    await change(folder, file, changes)
    await assert.rejects(readModel(folder), { code: 'MODEL_INVALID', message: new RegExp(file) }, JSON.stringify(changes))
  }
  const folder = await copyModel(t)
  await writeFile(join(folder, 'vae/config.json'), '{')
  await assert.rejects(readModel(folder), { code: 'MODEL_INVALID', message: /vae\/config\.json/ })
})

test('sizes, groups and heads that a network cannot have are refused where they are read', async (t) => {
  const cases: [string, Record<string, unknown>, RegExp][] = [
    ['vae/config.json', { norm_num_groups: 2 ** 32 }, /from 1 to 1048576 for norm_num_groups .* received 4294967296/],
    ['vae/config.json', { norm_num_groups: 7 }, /groups that divide 16 channels .* received 7/],
    ['unet/config.json', { norm_num_groups: 2 ** 32 }, /norm_num_groups/],
    ['text_encoder/config.json', { num_attention_heads: 2 ** 32 }, /num_attention_heads .* received 4294967296/],
    ['text_encoder/config.json', { num_attention_heads: 3 }, /heads that divide 128 channels .* received 3/],
    ['unet/config.json', { layers_per_block: 1e9 }, /from 1 to 128 for layers_per_block/],
    ['unet/config.json', { block_out_channels: new Array(64).fill(32) }, /1 to 8 whole numbers/],
    ['unet/config.json', { sample_size: 'large' }, /sample_size .* received "large"/],
    ['unet/config.json', { sample_size: 2 ** 20 }, /from 1 to 1024 for sample_size/],
    ['unet/config.json', { sample_size: [16] }, /list of 2 .* for sample_size/],
    ['unet/config.json', { norm_eps: -1 }, /norm_eps/],
    ['vae/config.json', { scaling_factor: 0 }, /scaling_factor/],
    ['scheduler/scheduler_config.json', { beta_start: -1 }, /beta_start/],
    ['scheduler/scheduler_config.json', { steps_offset: 0.5 }, /whole number from 0 to 999 for steps_offset/],
    ['scheduler/scheduler_config.json', { num_train_timesteps: 1e12 }, /num_train_timesteps/],
    ['text_encoder/config.json', { vocab_size: 1000 }, /vocab_size, 1000, .* received 1267/],
    ['text_encoder/config.json', { max_position_embeddings: 20 }, /max_position_embeddings, 20, .* received 77/],
  ]
  for (const [file, changes, message] of cases) {
    const folder = await copyModel(t)
    await change(folder, file, changes)
    await assert.rejects(readModel(folder), { code: 'MODEL_INVALID', message }, JSON.stringify(changes))
  }
})

const values = [null, true, -1, 0, 1.5, 2 ** 32, 2 ** 53, 1e308, '', 'x'.repeat(100_000), [], [[]], {}, { a: 1 }, new Array(10_000).fill(1)]
const odd = [...values.map((value) => JSON.stringify(value)), `${'['.repeat(50_000)}${']'.repeat(50_000)}`]
const files = [
  'unet/config.json',
  'text_encoder/config.json',
  'vae/config.json',
  'scheduler/scheduler_config.json',
  'tokenizer/tokenizer_config.json',
]

for (const file of files) {
  test(`whatever stands in ${file}, it is read or refused in one sentence`, async (t) => {
    const folder = await copyModel(t)
    const path = join(folder, file)
    const whole = file.startsWith('tokenizer') ? '{"model_max_length":77,"bos_token":"<|startoftext|>"}' : await readFile(path, 'utf8')
    const config = JSON.parse(whole) as Record<string, unknown>
    for (const [k, key] of Object.keys(config).entries()) {
      // In the short run each key has a quarter of the values, and the next key the next quarter.
      for (const value of odd.filter((_, v) => long || (k + v) % 4 === 0)) {
        await writeFile(path, JSON.stringify({ ...config, [key]: '@' }).replace('"@"', value))
        const error = await readModel(folder).catch((cause: unknown) => cause)
        if (!(error instanceof Error)) continue
        const { code = 'none', message } = error as LorafuseError
        const told = `${key} ${code} ${message.slice(0, 300)}`
        assert.ok(error instanceof LorafuseError && /^(MODEL_INVALID|MODEL_UNSUPPORTED|TOKENIZER_INVALID)$/.test(code), told)
        assert.ok(message.length < 600, told)
      }
    }
  })
}

test('what is not text of JSON in place of a config is named', async (t) => {
  const folder = await copyModel(t)
  const path = join(folder, 'unet/config.json')
  const cases: [string, RegExp][] = [
    ['version https://git-lfs.github.com/spec/v1\noid sha256:0\n', /a Git LFS pointer; fetch the file itself/],
    ['<!doctype html><html>', /a web page/],
    ['Entry not found', /the text "Entry not found"/],
    ['[1]', /something else/],
    ['{"a":"\xff"}', /something else/],
  ]
  for (const [text, message] of cases) {
    await writeFile(path, text, 'latin1')
    await assert.rejects(readModel(folder), { code: 'MODEL_INVALID', message }, text)
  }
})

const run = promisify(execFile)
const places = ['unet/config.json', 'unet/diffusion_pytorch_model.safetensors', 'tokenizer/vocab.json', 'tokenizer/merges.txt']
for (const place of places) {
  test(`a pipe, a folder, a circle of links or a missing right at ${place} is told`, async (t) => {
    const folder = await copyModel(t)
    const path = join(folder, place)
    const refuses = (message: RegExp) => assert.rejects(readModel(folder), { code: 'FILE_UNREADABLE', message })
    await chmod(path, 0)
    if (process.getuid?.() !== 0) await refuses(/no right to read it/)
    await rm(path)
    await run('mkfifo', [path])
    await refuses(/received a pipe/)
    await rm(path)
    await mkdir(path)
    await refuses(/received a folder/)
    await rm(path, { recursive: true })
    await symlink(path, path)
    await refuses(/links that lead in a circle/)
    await rm(path)
    await symlink('/dev/zero', path)
    await refuses(/received a device/)
  })
}

test('a config without end is refused by its size', async (t) => {
  const folder = await copyModel(t)
  const path = join(folder, 'vae/config.json')
  await writeFile(path, Buffer.alloc(2 ** 26 + 1, ' '))
  await assert.rejects(readModel(folder), { code: 'FILE_TOO_LARGE', message: /at most 64 MiB at .*vae\/config.json/ })
})
