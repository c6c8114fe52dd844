import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { changedCount, parameterCount, parameterViews } from '../../../lib/adapters/adapter.js'
import { fileTensors, layouts, readAdapters } from '../../../lib/adapters/files.js'
import { lora } from '../../../lib/adapters/lora.js'
import { writeSafetensors } from '../../../lib/files/safetensors.js'
import { loraPrefixes } from '../../../lib/models/model.js'
import { sd1 } from '../../../lib/models/sd1.js'
import { convolution, linear, parametersOf } from '../../fixtures/fake-session.js'
import { temporaryFolder } from '../../fixtures/temporary.js'
import { pattern } from '../../train/pattern.js'

const block = 'mid_block.attentions.0.transformer_blocks.0'
const paths = [`${block}.attn1.to_q`, `${block}.attn2.to_q`, `${block}.attn1.to_out.0`, 'down_blocks.0.attentions.0.proj_in']
const layers = paths.map((path) => linear(path, 6, 6))
const target = { layers: { unet: layers }, prefixes: loraPrefixes(sd1, {}), baseModelVersion: 'sd_v1' }

interface File {
  /** What comes before the layers' paths: PEFT's own files have `base_model.model.`. */
  prefix?: string
  ranks?: number[]
  metadata?: Record<string, string>
  /** The text of adapter_config.json. */
  config?: string
}

async function read(t: TestContext, { prefix = 'base_model.model.', ranks = [4, 4, 4, 4], metadata = {}, config }: File) {
  const folder = await temporaryFolder(t)
  const tensors = paths.flatMap((path, i) => {
    const rank = ranks[i]!
    const data = new Float32Array(rank * 6)
    return [
      { name: `${prefix}${path}.lora_A.weight`, dtype: 'F32' as const, shape: [rank, 6], data },
      { name: `${prefix}${path}.lora_B.weight`, dtype: 'F32' as const, shape: [6, rank], data },
    ]
  })
  const file = join(folder, 'adapter_model.safetensors')
  await writeSafetensors(file, tensors, metadata)
  if (config !== undefined) await writeFile(join(folder, 'adapter_config.json'), config)
  const warnings: string[] = []
  const parts = await readAdapters(lora, file, target, ({ code }) => warnings.push(code))
  return { scales: paths.map((path) => parts.get('unet')?.get(path)?.scale), warnings }
}

const config = (values: object) =>
  JSON.stringify({ peft_type: 'LORA', r: 4, lora_alpha: 6, use_rslora: false, init_lora_weights: true, ...values })

test("the scale of PEFT's file stands in adapter_config.json beside it", async (t) => {
  assert.deepEqual(await read(t, { config: config({}) }), { scales: [1.5, 1.5, 1.5, 1.5], warnings: [] })
  assert.deepEqual((await read(t, { config: config({ use_rslora: true }) })).scales, [3, 3, 3, 3])
})

test('the first pattern that fits the end of a path decides, as in PEFT', async (t) => {
  const patterns = {
    rank_pattern: { 'attn1.to_q': 8, to_q: 2, '^down_blocks.0.attentions.0.proj_in': 3, q: 7 },
    alpha_pattern: { '.*attn[12]\\.to_q': 4, 'attn1.to_q': 100, 'attentions.0.proj_in|none': 9, 'o_out.0': 50 },
  }
  const { scales } = await read(t, { ranks: [8, 2, 4, 3], config: config(patterns) })
  assert.deepEqual(scales, [4 / 8, 4 / 2, 6 / 4, 9 / 3])
  const stabilised = await read(t, { ranks: [8, 2, 4, 3], config: config({ ...patterns, use_rslora: true }) })
  assert.deepEqual(stabilised.scales, [4 / Math.sqrt(8), 4 / Math.sqrt(2), 6 / 2, 9 / Math.sqrt(3)])
})

test("diffusers' metadata holds the same config, with or without the network's name", async (t) => {
  const values = { r: 4, lora_alpha: 6, alpha_pattern: { to_q: 2 } }
  const named = Object.fromEntries(Object.entries(values).map(([key, value]) => [`unet.${key}`, value]))
  for (const [prefix, about] of [
    ['unet.', { ...named, 'text_encoder.r': 9, 'text_encoder.lora_alpha': 9 }],
    ['', values],
  ] as const) {
    const { scales, warnings } = await read(t, { prefix, metadata: { lora_adapter_metadata: JSON.stringify(about) } })
    assert.deepEqual([scales, warnings], [[0.5, 0.5, 1.5, 1.5], []])
  }
})

test("without a config, PEFT's file is read with scale 1 and a warning, diffusers' without one", async (t) => {
  assert.deepEqual(await read(t, {}), { scales: [1, 1, 1, 1], warnings: ['LORA_SCALE_UNKNOWN'] })
  assert.deepEqual(await read(t, { prefix: 'unet.', config: config({}) }), { scales: [1, 1, 1, 1], warnings: [] })
})

const refused: [what: string, file: File, code: string, says: RegExp][] = [
  ['another rank', { config: config({ r: 8 }) }, 'LORA_INVALID', /rank 8, as .*adapter_config\.json says, .* received 4 for/],
  ['rank 0', { config: config({ r: 0 }) }, 'LORA_INVALID', /rank 0/],
  ['an alpha of words', { config: config({ lora_alpha: 'big' }) }, 'LORA_INVALID', /a number for "lora_alpha" .* received "big"/],
  ['a pattern of words', { config: config({ rank_pattern: { to_q: 'x'.repeat(1e5) } }) }, 'LORA_INVALID', /a number for "to_q"/],
  ['patterns in a list', { config: config({ alpha_pattern: [1] }) }, 'LORA_INVALID', /an object for alpha_pattern .* received \[ 1 \]/],
  ['a pattern that is none', { config: config({ rank_pattern: { '(': 4 } }) }, 'LORA_UNSUPPORTED', /patterns that JavaScript reads/],
  ['a pattern without end', { config: config({ rank_pattern: { '(([a-z_0-9.]+)+)+x': 4 } }) }, 'LORA_UNSUPPORTED', /timed out/],
  ['DoRA', { config: config({ use_dora: true }) }, 'LORA_UNSUPPORTED', /a DoRA, as .* says/],
  [
    'PiSSA',
    { config: config({ init_lora_weights: 'pissa_niter_4' }) },
    'LORA_UNSUPPORTED',
    /"pissa_niter_4" changed, .* convert it with PEFT/,
  ],
  ['a web page', { config: '<!doctype html>' }, 'LORA_INVALID', /received a web page/],
  [
    'no JSON',
    { prefix: '', metadata: { lora_adapter_metadata: 'r=4' } },
    'LORA_INVALID',
    /a JSON object for lora_adapter_metadata .* received "r=4"/,
  ],
]
for (const [what, file, code, message] of refused) {
  test(`a config with ${what} is refused`, async (t) => {
    await assert.rejects(read(t, file), { code, message })
  })
}

test("training writes PEFT's names, with alpha multiplied in and said to be the rank", async (t) => {
  const convs = ['down_blocks.0.resnets.0.conv1', 'up_blocks.1.upsamplers.0.conv'].map((path) => convolution(path, 6, 6, 3))
  const all = [...layers, ...convs]
  const text = linear('text_model.encoder.layers.0.mlp.fc1', 6, 6)
  const options = { targets: 'default', rank: 4, alpha: 2, convRank: 2, convAlpha: 3 } as const
  const specs = lora.specs('unet', all, options)
  const parameters = [
    ...parametersOf(all, specs),
    { network: 'text_encoder', name: `${text.path}.down`, shape: [4, 6], group: 1 },
    { network: 'text_encoder', name: `${text.path}.up`, shape: [6, 4], group: 1 },
  ]
  const adapters = { kind: lora, alpha: 2, convAlpha: 3, parameters, layers: { unet: all, text_encoder: [text] } }
  const flat = pattern('peft', parameterCount(parameters))
  const room = new Float32Array(changedCount(adapters, 'baked'))
  const tensors = await fileTensors('peft', adapters, flat, 'F32', {}, room)
  // All of up, and the kernels.
  assert.equal(room.length, 4 * 24 + 24 + 2 * (12 + 108))
  assert.ok(room.every((value) => value !== 0))
  assert.deepEqual(
    tensors.slice(-4).map(({ name, shape }) => [name, shape]),
    [
      ['unet.up_blocks.1.upsamplers.0.conv.lora_A.weight', [2, 6, 3, 3]],
      ['unet.up_blocks.1.upsamplers.0.conv.lora_B.weight', [6, 2, 1, 1]],
      ['text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight', [4, 6]],
      ['text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_B.weight', [6, 4]],
    ],
  )
  const metadata = layouts.peft.metadata(parameters)
  const patterns = Object.fromEntries(convs.map(({ path }) => [path, 2]))
  assert.deepEqual(JSON.parse(metadata.lora_adapter_metadata!), {
    'unet.r': 4,
    'unet.lora_alpha': 4,
    'unet.rank_pattern': patterns,
    'unet.alpha_pattern': patterns,
    'unet.target_modules': all.map(({ path }) => path),
    'text_encoder.r': 4,
    'text_encoder.lora_alpha': 4,
    'text_encoder.rank_pattern': {},
    'text_encoder.alpha_pattern': {},
    'text_encoder.target_modules': ['encoder.layers.0.mlp.fc1'],
  })
  const file = join(await temporaryFolder(t), 'x.safetensors')
  await writeSafetensors(file, tensors, metadata)
  const found = await readAdapters(lora, file, { ...target, layers: { unet: all, text_encoder: [text] } })
  for (const { network, path, role, data } of parameterViews(parameters, flat)) {
    const part = found.get(network)!.get(path)!
    const factor = role === 'down' ? 1 : path.includes('conv') ? 3 / 2 : 2 / 4
    assert.equal(part.scale, 1)
    assert.deepEqual(
      role === 'down' ? part.down : part.up,
      data.map((value) => value * factor),
    )
  }
})
