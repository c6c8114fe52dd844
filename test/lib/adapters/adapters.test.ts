import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  type Adapter,
  adapterSpecs,
  adapterTensors,
  initialAdapters,
  kohyaName,
  matrices,
  parameterCount,
  selectAdapters,
} from '../../../lib/adapters/adapters.js'
import type { AdaptableModule } from '../../../lib/native.js'

const block = 'down_blocks.0.attentions.1.transformer_blocks.0'
const linear = (path: string, inFeatures: number, outFeatures: number): AdaptableModule => ({
  path,
  kind: 'linear',
  inFeatures,
  outFeatures,
})
const modules: AdaptableModule[] = [
  { path: 'down_blocks.0.attentions.1.proj_in', kind: 'conv', inFeatures: 32, outFeatures: 32 },
  ...['attn1.to_q', 'attn1.to_k', 'attn1.to_v', 'attn1.to_out.0'].map((name) => linear(`${block}.${name}`, 32, 32)),
  linear(`${block}.attn2.to_k`, 48, 32),
  linear(`${block}.ff.net.0.proj`, 32, 256),
  linear(`${block}.ff.net.2`, 128, 32),
]

test('by default every layer gets an adapter, in order; with attention q, k, v and out alone', () => {
  assert.deepEqual(
    selectAdapters(modules, 'default', 4, 2).map(({ module }) => module),
    modules,
  )
  const names = selectAdapters(modules, 'attention', 4, 2).map(({ module }) => module.path.slice(block.length + 1))
  assert.deepEqual(names, ['attn1.to_q', 'attn1.to_k', 'attn1.to_v', 'attn1.to_out.0', 'attn2.to_k'])
})

test('a rank above what a layer can have is refused, and the layer named', () => {
  assert.equal(selectAdapters(modules, 'default', 32, 1).length, modules.length)
  assert.throws(() => selectAdapters(modules, 'attention', 33, 1), {
    code: 'RANK_TOO_LARGE',
    message: `Expected at most 32 for rank, as ${block}.attn1.to_q is 32 × 32, but received 33`,
  })
})

test("names are kohya's", () => {
  assert.equal(kohyaName(`${block}.attn1.to_out.0`), 'lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_out_0')
  assert.equal(kohyaName('mid_block.attentions.0.proj_in'), 'lora_unet_mid_block_attentions_0_proj_in')
})

test('the scale is alpha over rank', () => {
  const specs = adapterSpecs(selectAdapters(modules, 'attention', 8, 2))
  assert.deepEqual(specs[0], { path: `${block}.attn1.to_q`, rank: 8, scale: 0.25 })
})

test('down begins uniform within one over the root of its inputs, up at zero, and the seed decides', () => {
  const adapters = selectAdapters(modules, 'default', 16, 16)
  const flat = initialAdapters(adapters, 5)
  assert.equal(flat.length, parameterCount(adapters))
  const firsts = new Set<number>()
  for (const { adapter, down, up } of matrices(adapters, flat)) {
    const bound = 1 / Math.sqrt(adapter.module.inFeatures)
    assert.equal(down.length, 16 * adapter.module.inFeatures)
    assert.equal(up.length, 16 * adapter.module.outFeatures)
    assert.ok(up.every((value) => value === 0))
    const extent = down.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
    assert.ok(extent <= bound && extent > 0.97 * bound)
    const variance = down.reduce((sum, value) => sum + value ** 2, 0) / down.length
    assert.ok(Math.abs(variance / (bound ** 2 / 3) - 1) < 0.2)
    firsts.add(down[0]! / bound)
  }
  assert.equal(firsts.size, modules.length)
  assert.deepEqual(initialAdapters(adapters, 5), flat)
  assert.notDeepEqual(initialAdapters(adapters, 6), flat)
})

test("tensors have kohya's keys and shapes, 4-D for convolutions, and lie in the buffer as the native side has them", () => {
  const adapters: Adapter[] = selectAdapters([modules[0]!, modules[5]!], 'default', 2, 3)
  const flat = Float32Array.from({ length: parameterCount(adapters) }, (_, i) => i)
  const tensors = adapterTensors(adapters, flat, 'F16')
  const key = kohyaName(`${block}.attn2.to_k`)
  assert.deepEqual(
    tensors.map(({ name, shape, dtype }) => [name, shape, dtype]),
    [
      ['lora_unet_down_blocks_0_attentions_1_proj_in.lora_down.weight', [2, 32, 1, 1], 'F16'],
      ['lora_unet_down_blocks_0_attentions_1_proj_in.lora_up.weight', [32, 2, 1, 1], 'F16'],
      ['lora_unet_down_blocks_0_attentions_1_proj_in.alpha', [], 'F16'],
      [`${key}.lora_down.weight`, [2, 48], 'F16'],
      [`${key}.lora_up.weight`, [32, 2], 'F16'],
      [`${key}.alpha`, [], 'F16'],
    ],
  )
  assert.deepEqual(
    [0, 1, 3, 4].map((i) => tensors[i]!.data[0]),
    [0, 64, 128, 224],
  )
  assert.equal(tensors[2]!.data[0], 3)
})
