import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  type AdapterOptions,
  adapterCount,
  changedCount,
  initialWeights,
  parameterCount,
  parameterViews,
} from '../../../lib/adapters/adapter.js'
import { fileTensors } from '../../../lib/adapters/files.js'
import { kohyaLayer, kohyaName, parseKohyaName } from '../../../lib/adapters/kohya.js'
import { lora } from '../../../lib/adapters/lora.js'
import { parsePeftName } from '../../../lib/adapters/peft.js'
import { loraPrefixes } from '../../../lib/models/model.js'
import { sd1 } from '../../../lib/models/sd1.js'
import type { Layer } from '../../../lib/native.js'
import { uniform } from '../../../lib/random.js'
import { convolution, linear, parametersOf } from '../../fixtures/fake-session.js'

const block = 'down_blocks.0.attentions.1.transformer_blocks.0'
const transformer: Layer[] = [
  convolution('down_blocks.0.attentions.1.proj_in', 32, 32),
  ...['attn1.to_q', 'attn1.to_k', 'attn1.to_v', 'attn1.to_out.0'].map((name) => linear(`${block}.${name}`, 32, 32)),
  linear(`${block}.attn2.to_k`, 48, 32),
  linear(`${block}.ff.net.0.proj`, 32, 256),
  linear(`${block}.ff.net.2`, 128, 32),
]
const layers = [
  linear('time_embedding.linear_1', 32, 64),
  linear('down_blocks.0.resnets.0.time_emb_proj', 64, 32),
  ...transformer,
  linear('up_blocks.0.resnets.0.conv_shortcut', 64, 32),
]
const convolutions = [
  convolution('down_blocks.0.resnets.0.conv1', 32, 48, 3),
  convolution('down_blocks.0.downsamplers.0.conv', 48, 48, 3, 2),
]
const prefixes = loraPrefixes(sd1, {})

function specs(targets: AdapterOptions['targets'], rank: number, alpha: number, from = layers) {
  return lora.specs('unet', from, { targets, rank, alpha })
}

function attached(rank: number, alpha: number, from = layers) {
  return { kind: lora, alpha, layers: { unet: from }, parameters: parametersOf(from, specs('default', rank, alpha, from)) }
}

test('by default every layer of the transformers gets an adapter, in order; with attention q, k, v and out alone', () => {
  assert.deepEqual(
    specs('default', 4, 2).map(({ path }) => path),
    transformer.map(({ path }) => path),
  )
  const names = specs('attention', 4, 2).map(({ path }) => path.slice(block.length + 1))
  assert.deepEqual(names, ['attn1.to_q', 'attn1.to_k', 'attn1.to_v', 'attn1.to_out.0', 'attn2.to_k'])
})

test('layers of one path in two networks are told apart', async () => {
  const path = 'text_model.encoder.layers.0.mlp.fc1'
  const both = { text_encoder: [linear(path, 4, 6)], text_encoder_2: [convolution(path, 4, 6)] }
  const parameters = Object.entries(both).flatMap(([network, own]) =>
    parametersOf(own, lora.specs(network, own, { targets: 'default', rank: 1, alpha: 1 })).map((parameter) => ({ ...parameter, network })),
  )
  const two = { text_encoder: { prefix: 'lora_te1' }, text_encoder_2: { prefix: 'lora_te2' } }
  const adapters = { kind: lora, alpha: 1, layers: both, parameters }
  const tensors = await fileTensors('kohya', adapters, new Float32Array(parameterCount(parameters)), 'F32', two)
  const shapes = tensors.filter(({ name }) => name.endsWith('down.weight')).map(({ shape }) => shape)
  assert.deepEqual(shapes, [
    [1, 4],
    [1, 4, 1, 1],
  ])
})

test('a rank above what a layer can have is refused, and the layer named', () => {
  assert.equal(specs('default', 32, 1).length, transformer.length)
  assert.throws(() => specs('attention', 33, 1), {
    code: 'RANK_TOO_LARGE',
    message: `Expected at most 32 for rank, as ${block}.attn1.to_q is 32 × 32, but received 33`,
  })
})

test('with a rank of convolutions the other layers of resnets get the rank, kernels of 3 × 3 their own', () => {
  const options = { targets: 'attention', rank: 8, alpha: 2, convRank: 4, convAlpha: 1 } as const
  const found = lora.specs('unet', [...layers, ...convolutions], options).filter(({ path }) => !path.includes('.attentions.'))
  assert.deepEqual(
    found.map(({ path, rank, scale }) => [path, rank, scale]),
    [
      ['down_blocks.0.resnets.0.time_emb_proj', 8, 0.25],
      ['up_blocks.0.resnets.0.conv_shortcut', 8, 0.25],
      ['down_blocks.0.resnets.0.conv1', 4, 0.25],
      ['down_blocks.0.downsamplers.0.conv', 4, 0.25],
    ],
  )
  assert.equal(lora.specs('unet', [...layers, ...convolutions], { ...options, convAlpha: 3 }).at(-1)!.scale, 0.75)
  const all = [...layers, ...convolutions]
  assert.equal(lora.specs('unet', all, { targets: 'default', rank: 8, alpha: 2 }).length, transformer.length)
  assert.throws(() => lora.specs('unet', all, { ...options, convRank: 49 }), {
    code: 'RANK_TOO_LARGE',
    message: 'Expected at most 48 for convRank, as down_blocks.0.resnets.0.conv1 is 48 × 288, but received 49',
  })
  assert.throws(() => lora.specs('unet', all, { ...options, convRank: 49 }, (name) => `--${name}`), { message: /for --convRank, as/ })
})

test('the scale is alpha over rank', () => {
  const path = `${block}.attn1.to_q`
  assert.deepEqual(specs('attention', 8, 2)[0], { network: 'unet', path, kind: 'lora', rank: 8, scale: 0.25, group: 0 })
})

test("names are kohya's, and lead back", () => {
  const path = `${block}.attn1.to_out.0`
  const layer = 'down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_out_0'
  assert.equal(kohyaLayer(prefixes, 'unet', path), `lora_unet_${layer}`)
  for (const [network, prefix] of Object.entries({ unet: 'lora_unet', text_encoder: 'lora_te' })) {
    for (const [role, suffix] of Object.entries({ down: 'lora_down.weight', up: 'lora_up.weight', alpha: 'alpha' })) {
      const name = kohyaName(prefixes, network, path, role)
      assert.equal(name, `${prefix}_${layer}.${suffix}`)
      assert.deepEqual(parseKohyaName(name), { network, layer, role })
    }
  }
  for (const name of [`lora_unet_${layer}`, `lora_unet_${layer}.lora_down`, `lora_prior_${layer}.alpha`, `unet.${path}.lora_A.weight`])
    assert.equal(parseKohyaName(name), undefined, name)
})

test("names are diffusers' and PEFT's", () => {
  const path = `${block}.attn1.to_out.0`
  const layer = path.replaceAll('.', '_')
  for (const [matrix, role] of Object.entries({ lora_A: 'down', lora_B: 'up', 'lora.down': 'down', 'lora.up': 'up' })) {
    for (const network of ['unet', 'text_encoder'])
      assert.deepEqual(parsePeftName(`${network}.${path}.${matrix}.weight`), { network, layer, role })
  }
  assert.deepEqual(parsePeftName(`base_model.model.${path}.lora_B.default.weight`), { network: 'unet', layer, role: 'up' })
  // save_lora_adapter writes no prefix; diffusers' first files have processors.
  assert.deepEqual(parsePeftName(`${path}.lora_A.weight`), { network: 'unet', layer, role: 'down' })
  assert.deepEqual(parsePeftName(`unet.${path}.alpha`), { network: 'unet', layer, role: 'alpha' })
  const processor = `${block}.attn1.processor`
  assert.deepEqual(parsePeftName(`unet.${processor}.to_out_lora.down.weight`), { network: 'unet', layer, role: 'down' })
  assert.deepEqual(parsePeftName(`${processor}.to_q_lora.up.weight`)?.layer, `${block}.attn1.to_q`.replaceAll('.', '_'))
  const text = 'text_model.encoder.layers.0.mlp.fc1'
  for (const prefix of ['', 'base_model.model.', 'text_encoder.'])
    assert.equal(parsePeftName(`${prefix}${text}.lora_A.weight`)?.network, 'text_encoder')
  assert.equal(parsePeftName(kohyaName(prefixes, 'unet', path, 'up')), undefined)
})

test('down begins uniform within one over the root of its inputs, up at zero, and the seed decides', async () => {
  const adapters = attached(16, 16)
  const flat = await initialWeights(adapters, 5)
  assert.equal(flat.length, parameterCount(adapters.parameters))
  assert.equal(adapterCount(adapters), transformer.length)
  const firsts = new Set<number>()
  for (const { role, shape, data, index } of parameterViews(adapters.parameters, flat)) {
    if (role === 'up') {
      assert.ok(data.every((value) => value === 0))
      continue
    }
    const { inFeatures } = transformer[index]!
    const bound = 1 / Math.sqrt(inFeatures)
    assert.deepEqual(shape, [16, inFeatures])
    const extent = data.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
    assert.ok(extent <= bound && extent > 0.97 * bound)
    const variance = data.reduce((sum, value) => sum + value ** 2, 0) / data.length
    assert.ok(Math.abs(variance / (bound ** 2 / 3) - 1) < 0.2)
    firsts.add(data[0]! / bound)
  }
  assert.equal(firsts.size, transformer.length)
  assert.deepEqual(await initialWeights(adapters, 5), flat)
  assert.notDeepEqual(await initialWeights(adapters, 6), flat)
})

test('in pieces, a large adapter begins with the numbers that it has in one', async () => {
  const [inFeatures, rank] = [1000, 50]
  const adapters = attached(rank, 1, [linear(`${block}.attn1.to_q`, inFeatures, 64)])
  let turns = 0
  const flat = await initialWeights(adapters, 5, async () => void turns++)
  const drawn = uniform({ seed: 5, stream: 'adapters', index: 0 }, rank * inFeatures)
  const down = Float32Array.from(drawn, (value) => (2 * value - 1) / Math.sqrt(inFeatures))
  assert.ok(flat.subarray(0, down.length).every((value, i) => Math.abs(value - down[i]!) < 1e-8))
  assert.equal(flat[40_001], Math.fround((2 * drawn[40_001]! - 1) * (1 / Math.sqrt(inFeatures))))
  // Four of down, one of up.
  assert.equal(turns, 5)
})

test("tensors have kohya's keys and shapes, 4-D for convolutions, and lie in the buffer as the native side has them", async () => {
  const adapters = attached(2, 3, [transformer[0]!, transformer[5]!])
  const flat = Float32Array.from({ length: parameterCount(adapters.parameters) }, (_, i) => i)
  const tensors = await fileTensors('kohya', adapters, flat, 'F16', prefixes)
  const key = kohyaLayer(prefixes, 'unet', `${block}.attn2.to_k`)
  const first = 'lora_unet_down_blocks_0_attentions_1_proj_in'
  assert.deepEqual(
    tensors.map(({ name, shape, dtype, data }) => [name, shape, dtype, data[0]]),
    [
      [`${first}.lora_down.weight`, [2, 32, 1, 1], 'F16', 0],
      [`${first}.alpha`, [], 'F16', 3],
      [`${first}.lora_up.weight`, [32, 2, 1, 1], 'F16', 64],
      [`${key}.lora_down.weight`, [2, 48], 'F16', 128],
      [`${key}.alpha`, [], 'F16', 3],
      [`${key}.lora_up.weight`, [32, 2], 'F16', 224],
    ],
  )
})

test('the kernel of a convolution is in the file as PyTorch has it, with an alpha of its own, and begins within its bound', async () => {
  const options = { targets: 'attention', rank: 8, alpha: 3, convRank: 2, convAlpha: 5 } as const
  const [first] = convolutions
  const parameters = parametersOf([first!], lora.specs('unet', [first!], options))
  const adapters = { kind: lora, alpha: 3, convAlpha: 5, layers: { unet: [first!] }, parameters }
  const flat = Float32Array.from({ length: parameterCount(parameters) }, (_, i) => i)
  const [down, alpha, up] = await fileTensors('kohya', adapters, flat, 'F32', prefixes)
  const name = 'lora_unet_down_blocks_0_resnets_0_conv1'
  assert.deepEqual([down!.name, down!.shape], [`${name}.lora_down.weight`, [2, 32, 3, 3]])
  assert.deepEqual([up!.name, up!.shape, up!.data[0]], [`${name}.lora_up.weight`, [48, 2, 1, 1], 9 * 2 * 32])
  assert.deepEqual([...alpha!.data], [5])
  // [taps, rank, in] in the buffer.
  for (const [r, c, tap] of [
    [0, 0, 0],
    [1, 31, 8],
    [1, 7, 3],
  ] as const)
    assert.equal(down!.data[(r * 32 + c) * 9 + tap], (tap * 2 + r) * 32 + c)
  const room = new Float32Array(9 * 2 * 32)
  assert.equal(changedCount(adapters, 'beside'), room.length)
  const [within] = await fileTensors('kohya', adapters, flat, 'F32', prefixes, room)
  assert.equal(within!.data.buffer, room.buffer)

  const begun = await initialWeights(adapters, 5)
  const bound = 1 / Math.sqrt(32 * 9)
  const extent = begun.subarray(0, room.length).reduce((most, value) => Math.max(most, Math.abs(value)), 0)
  assert.ok(extent <= bound && extent > 0.97 * bound, `${extent}`)
  assert.ok(begun.subarray(room.length).every((value) => value === 0))
})
