import assert from 'node:assert/strict'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { type Adapters, attachStack, parameterCount } from '../../../lib/adapters/adapter.js'
import { kohyaTensors, readAdapters } from '../../../lib/adapters/files.js'
import { kohyaLayer } from '../../../lib/adapters/kohya.js'
import { lora as kind, type LoraPart } from '../../../lib/adapters/lora.js'
import { type NamedTensor, writeSafetensors } from '../../../lib/files/safetensors.js'
import { loraPrefixes } from '../../../lib/models/model.js'
import { sd1 } from '../../../lib/models/sd1.js'
import type { Layer } from '../../../lib/native.js'
import { FakeSession, parametersOf } from '../../fixtures/fake-session.js'
import { temporaryFolder } from '../../fixtures/temporary.js'
import { pattern } from '../../train/pattern.js'

const block = 'mid_block.attentions.0.transformer_blocks.0'
const modules: Layer[] = [
  { path: 'mid_block.attentions.0.proj_in', kind: 'conv', inFeatures: 6, outFeatures: 6 },
  { path: `${block}.attn1.to_out.0`, kind: 'linear', inFeatures: 6, outFeatures: 6 },
  { path: `${block}.ff.net.2`, kind: 'linear', inFeatures: 12, outFeatures: 6 },
]

const prefixes = loraPrefixes(sd1)
const kohyaName = (path: string) => kohyaLayer(prefixes, 'unet', path)
const readLora = (path: string) => readAdapters(kind, path, 'unet', modules, prefixes)
type Lora = Map<string, LoraPart>

function attached(layers: Layer[], rank: number, alpha: number): Adapters {
  return { kind, alpha, layers, parameters: parametersOf(layers, kind.specs('unet', layers, { targets: 'default', rank, alpha })) }
}

function random(name: string, { parameters }: Adapters): Float32Array {
  return pattern(name, parameterCount(parameters))
}

/** As a pipeline stacks: what is attached, and the weights that are written. */
function stackLoras(loras: { part: Lora; weight: number }[]) {
  const session = new FakeSession(modules)
  attachStack(session, kind, 'unet', loras)
  return { specs: session.adapters, weights: session.read('weights') }
}

/** scale · up · down `[out, in]` of a layer. */
function product({ rank, scale, down, up }: { rank: number; scale: number; down: Float32Array; up: Float32Array }): number[] {
  const [rows, columns] = [up.length / rank, down.length / rank]
  return Array.from({ length: rows * columns }, (_, at) => {
    const [row, column] = [Math.floor(at / columns), at % columns]
    let sum = 0
    for (let r = 0; r < rank; r++) sum += up[row * rank + r]! * down[r * columns + column]!
    return scale * sum
  })
}

function assertClose(values: number[], expected: number[]): void {
  assert.equal(values.length, expected.length)
  for (const [i, value] of values.entries()) assert.ok(Math.abs(value - expected[i]!) < 1e-5, `${i}: ${value} ${expected[i]}`)
}

async function write(t: TestContext, tensors: NamedTensor[], metadata: Record<string, string> = {}): Promise<string> {
  const path = join(await temporaryFolder(t), 'x.safetensors')
  await writeSafetensors(path, tensors, metadata)
  return path
}

test('what training writes is read back', async (t) => {
  const adapters = attached(modules, 2, 3)
  const flat = random('a', adapters)
  const lora = await readLora(await write(t, kohyaTensors(adapters, flat, 'F32', prefixes)))
  assert.deepEqual([...lora.keys()].sort(), modules.map(({ path }) => path).sort())
  const { weights, specs } = stackLoras([{ part: lora, weight: 1 }])
  assert.deepEqual(
    specs.map(({ path, rank, scale }) => [path, rank, scale]),
    modules.map(({ path }) => [path, 2, 1]),
  )
  // Scale 3/2 is taken into up.
  assert.deepEqual(weights.subarray(0, 12), flat.subarray(0, 12))
  assert.equal(weights[12], Math.fround(flat[12]! * 1.5))
})

test("diffusers' and PEFT's layouts say the same as kohya's", async (t) => {
  const { path, inFeatures } = modules[2]!
  const [down, up] = [pattern('down', 2 * inFeatures), pattern('up', 6 * 2)]
  const layouts: [string, string, Record<string, string>, number][] = [
    [`unet.${path}.lora_A.weight`, `unet.${path}.lora_B.weight`, {}, 1],
    [`unet.${path}.lora.down.weight`, `unet.${path}.lora.up.weight`, {}, 1],
    [`base_model.model.${path}.lora_A.weight`, `base_model.model.${path}.lora_B.weight`, {}, 1],
    [`unet.${path}.lora_A.weight`, `unet.${path}.lora_B.weight`, { lora_adapter_metadata: '{"unet.r":2,"unet.lora_alpha":5}' }, 2.5],
    [`${kohyaName(path)}.lora_down.weight`, `${kohyaName(path)}.lora_up.weight`, {}, 1],
  ]
  for (const [downName, upName, metadata, scale] of layouts) {
    const file = await write(
      t,
      [
        { name: downName, dtype: 'F32', shape: [2, inFeatures], data: down },
        { name: upName, dtype: 'F32', shape: [6, 2], data: up },
      ],
      metadata,
    )
    assert.deepEqual([...(await readLora(file))], [[path, { rank: 2, scale, down, up }]])
  }
})

test('an alpha of 0 means the rank', async (t) => {
  const adapters = attached([modules[1]!], 2, 0)
  const lora = await readLora(await write(t, kohyaTensors(adapters, random('b', adapters), 'F32', prefixes)))
  assert.equal(lora.get(modules[1]!.path)?.scale, 1)
})

test('a stack of LoRAs of different ranks and layers adds what each adds, times its weight', () => {
  const layer = (module: Layer, rank: number, scale: number) => ({
    ...{ rank, scale },
    down: pattern(`${rank}${module.path}down`, rank * module.inFeatures),
    up: pattern(`${rank}${module.path}up`, rank * module.outFeatures),
  })
  const first: Lora = new Map(modules.slice(0, 2).map((module) => [module.path, layer(module, 2, 0.5)]))
  const second: Lora = new Map(modules.slice(1).map((module) => [module.path, layer(module, 3, 2)]))
  const third: Lora = new Map([[modules[2]!.path, layer(modules[2]!, 1, 1)]])
  const parts = [
    { part: first, weight: 0.8 },
    { part: second, weight: -1.5 },
    { part: third, weight: 0 },
  ]
  const { specs, weights } = stackLoras(parts)
  assert.deepEqual(
    specs.map(({ rank }) => rank),
    [2, 5, 3],
  )
  let at = 0
  for (const [i, { path, inFeatures, outFeatures }] of modules.entries()) {
    const { rank, scale } = specs[i]!
    const middle = at + rank * inFeatures
    const end = middle + outFeatures * rank
    const expected = new Array<number>(inFeatures * outFeatures).fill(0)
    for (const { part, weight } of parts) {
      const own = part.get(path)
      if (own) for (const [j, value] of product(own).entries()) expected[j]! += weight * value
    }
    assertClose(product({ rank, scale, down: weights.subarray(at, middle), up: weights.subarray(middle, end) }), expected)
    at = end
  }
  assert.equal(at, weights.length)
  assert.deepEqual(stackLoras([]), { specs: [], weights: new Float32Array(0) })
})

const matrix = (name: string, rows: number, columns: number): NamedTensor => ({
  ...{ name, dtype: 'F32', shape: [rows, columns] },
  data: new Float32Array(rows * columns),
})
const to_out = kohyaName(modules[1]!.path)
const refused: { what: string; tensors: NamedTensor[]; metadata?: Record<string, string>; code: string; says: RegExp }[] = [
  { what: 'nothing', tensors: [], code: 'LORA_UNSUPPORTED', says: /received none/ },
  {
    what: "the text encoder's layers",
    tensors: [matrix('lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight', 1, 6)],
    code: 'LORA_UNSUPPORTED',
    says: /received the tensor lora_te_/,
  },
  { what: 'another kind of adapter', tensors: [matrix(`${to_out}.hada_w1_a`, 1, 6)], code: 'LORA_UNSUPPORTED', says: /hada_w1_a/ },
  { what: 'half of a layer', tensors: [matrix(`${to_out}.lora_down.weight`, 1, 6)], code: 'LORA_UNSUPPORTED', says: /both matrices/ },
  {
    what: 'ranks by layer in the metadata',
    tensors: [matrix(`unet.${modules[1]!.path}.lora_A.weight`, 1, 6), matrix(`unet.${modules[1]!.path}.lora_B.weight`, 6, 1)],
    metadata: { lora_adapter_metadata: '{"unet.r":1,"unet.lora_alpha":1,"unet.rank_pattern":{"a":2}}' },
    code: 'LORA_UNSUPPORTED',
    says: /rank_pattern/,
  },
  {
    what: 'a layer the model lacks',
    tensors: [matrix('lora_unet_input_blocks_4_1_proj_in.lora_down.weight', 1, 6)],
    code: 'LORA_MISMATCH',
    says: /received lora_unet_input_blocks_4_1_proj_in/,
  },
  {
    what: 'a layer of another size',
    tensors: [matrix(`${to_out}.lora_down.weight`, 1, 8), matrix(`${to_out}.lora_up.weight`, 8, 1)],
    code: 'LORA_MISMATCH',
    says: /Expected \[rank, 6\] for .* but received \[1, 8\]/,
  },
]

for (const { what, tensors, metadata, code, says } of refused) {
  test(`a file with ${what} is refused`, async (t) => {
    await assert.rejects(readLora(await write(t, tensors, metadata)), { code, message: says })
  })
}
