import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type AdapterOptions, adapterCount, initialWeights, parameterCount, parameterViews } from '../../../lib/adapters/adapter.js'
import { kohyaTensors } from '../../../lib/adapters/files.js'
import { kohyaLayer, kohyaName, parseKohyaName } from '../../../lib/adapters/kohya.js'
import { lora } from '../../../lib/adapters/lora.js'
import { parsePeftName } from '../../../lib/adapters/peft.js'
import { loraPrefixes } from '../../../lib/models/model.js'
import { sd1 } from '../../../lib/models/sd1.js'
import type { Layer } from '../../../lib/native.js'
import { uniform } from '../../../lib/random.js'
import { parametersOf } from '../../fixtures/fake-session.js'

const block = 'down_blocks.0.attentions.1.transformer_blocks.0'
const linear = (path: string, inFeatures: number, outFeatures: number): Layer => ({ path, kind: 'linear', inFeatures, outFeatures })
const transformer: Layer[] = [
  { path: 'down_blocks.0.attentions.1.proj_in', kind: 'conv', inFeatures: 32, outFeatures: 32 },
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
const prefixes = loraPrefixes(sd1, {})

function specs(targets: AdapterOptions['targets'], rank: number, alpha: number, from = layers) {
  return lora.specs('unet', from, { targets, rank, alpha })
}

function attached(rank: number, alpha: number, from = layers) {
  return { kind: lora, alpha, layers: from, parameters: parametersOf(from, specs('default', rank, alpha, from)) }
}

test('by default every layer of the transformers gets an adapter, in order; with attention q, k, v and out alone', () => {
  assert.deepEqual(
    specs('default', 4, 2).map(({ path }) => path),
    transformer.map(({ path }) => path),
  )
  const names = specs('attention', 4, 2).map(({ path }) => path.slice(block.length + 1))
  assert.deepEqual(names, ['attn1.to_q', 'attn1.to_k', 'attn1.to_v', 'attn1.to_out.0', 'attn2.to_k'])
})

test('a rank above what a layer can have is refused, and the layer named', () => {
  assert.equal(specs('default', 32, 1).length, transformer.length)
  assert.throws(() => specs('attention', 33, 1), {
    code: 'RANK_TOO_LARGE',
    message: `Expected at most 32 for rank, as ${block}.attn1.to_q is 32 × 32, but received 33`,
  })
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

test("tensors have kohya's keys and shapes, 4-D for convolutions, and lie in the buffer as the native side has them", () => {
  const adapters = attached(2, 3, [transformer[0]!, transformer[5]!])
  const flat = Float32Array.from({ length: parameterCount(adapters.parameters) }, (_, i) => i)
  const tensors = kohyaTensors(adapters, flat, 'F16', prefixes)
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
