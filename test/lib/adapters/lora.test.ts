import assert from 'node:assert/strict'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import fc from 'fast-check'
import { type Adapters, attachStack, parameterCount } from '../../../lib/adapters/adapter.js'
import { fileTensors, readAdapters } from '../../../lib/adapters/files.js'
import { kohyaLayer } from '../../../lib/adapters/kohya.js'
import { lora as kind, type LoraPart } from '../../../lib/adapters/lora.js'
import { type NamedTensor, writeSafetensors } from '../../../lib/files/safetensors.js'
import { loraPrefixes } from '../../../lib/models/model.js'
import { sd1 } from '../../../lib/models/sd1.js'
import type { Layer } from '../../../lib/native.js'
import { convolution, FakeSession, linear, parametersOf } from '../../fixtures/fake-session.js'
import { writeRaw } from '../../fixtures/safetensors.js'
import { temporaryFolder } from '../../fixtures/temporary.js'
import { pattern } from '../../train/pattern.js'

const block = 'mid_block.attentions.0.transformer_blocks.0'
const modules: Layer[] = [
  convolution('mid_block.attentions.0.proj_in', 6, 6),
  linear(`${block}.attn1.to_out.0`, 6, 6),
  linear(`${block}.ff.net.2`, 12, 6),
]

const prefixes = loraPrefixes(sd1, {})
const kohyaName = (path: string) => kohyaLayer(prefixes, 'unet', path)
const target = { layers: { unet: modules }, prefixes, baseModelVersion: 'sd_v1' }
const readLora = async (path: string) => (await readAdapters(kind, path, target)).get('unet')!
type Lora = Map<string, LoraPart>

function attached(layers: Layer[], rank: number, alpha: number): Adapters {
  return {
    kind,
    alpha,
    layers: { unet: layers },
    parameters: parametersOf(layers, kind.specs('unet', layers, { targets: 'default', rank, alpha })),
  }
}

function random(name: string, { parameters }: Adapters): Float32Array {
  return pattern(name, parameterCount(parameters))
}

/** As files of the UNet alone. */
const stackOf = (loras: { part: Lora; weight: number }[]) =>
  loras.map(({ part, weight }) => ({ file: new Map([['unet', part]]), weight: () => weight }))

/** As a pipeline stacks: what is attached, and the weights that are written. */
async function stackLoras(loras: { part: Lora; weight: number }[]) {
  const session = new FakeSession(modules)
  await attachStack(session, kind, stackOf(loras))
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
  const lora = await readLora(await write(t, await fileTensors('kohya', adapters, flat, 'F32', prefixes)))
  assert.deepEqual([...lora.keys()].sort(), modules.map(({ path }) => path).sort())
  const { weights, specs } = await stackLoras([{ part: lora, weight: 1 }])
  assert.deepEqual(
    specs.map(({ path, rank, scale }) => [path, rank, scale]),
    modules.map(({ path }) => [path, 2, 1]),
  )
  // Scale 3/2 is taken into up.
  assert.deepEqual(weights.subarray(0, 12), flat.subarray(0, 12))
  assert.equal(weights[12], Math.fround(flat[12]! * 1.5))
})

test('kernels of convolutions are read into the order of the session, and stacked tap by tap', async (t) => {
  const conv = convolution('down_blocks.0.resnets.0.conv1', 3, 5, 3)
  const session = new FakeSession([conv])
  const parts: { part: Lora; weight: number }[] = []
  for (const [rank, alpha, weight] of [
    [2, 4, 0.5],
    [1, 1, -1],
  ] as const) {
    const options = { targets: 'default', rank: 1, alpha: 1, convRank: rank, convAlpha: alpha } as const
    const adapters = {
      ...{ kind, alpha: 1, convAlpha: alpha, layers: { unet: [conv] } },
      parameters: parametersOf([conv], kind.specs('unet', [conv], options)),
    }
    const flat = random(`conv ${rank}`, adapters)
    const file = await write(t, await fileTensors('kohya', adapters, flat, 'F32', prefixes))
    const part = (await readAdapters(kind, file, { ...target, layers: { unet: [conv] } })).get('unet')!
    const { down, up, scale } = part.get(conv.path)!
    assert.deepEqual([...down, ...up], [...flat])
    assert.equal(scale, alpha / rank)
    parts.push({ part, weight })
  }
  await attachStack(session, kind, stackOf(parts))
  assert.equal(session.adapters[0]!.rank, 3)
  const weights = session.read('weights')
  const [first, second] = parts.map(({ part }) => part.get(conv.path)!)
  for (let tap = 0; tap < 9; tap++)
    for (let c = 0; c < 3; c++) {
      const row = (r: number) => weights[(tap * 3 + r) * 3 + c]
      assert.deepEqual([row(0), row(1), row(2)], [0, 1].map((r) => first!.down[(tap * 2 + r) * 3 + c]).concat(second!.down[tap * 3 + c]))
    }
  for (let n = 0; n < 5; n++) {
    const at = 9 * 3 * 3 + n * 3
    assert.equal(weights[at], Math.fround(0.5 * 2 * first!.up[n * 2]!))
    assert.equal(weights[at + 2], Math.fround(-1 * second!.up[n]!))
  }
})

test("a convolution's LoRA with another kernel is refused", async (t) => {
  const conv = convolution('down_blocks.0.resnets.0.conv1', 3, 5, 3)
  const name = kohyaName(conv.path)
  const up = { name: `${name}.lora_up.weight`, dtype: 'F32' as const, shape: [5, 1, 1, 1], data: new Float32Array(5) }
  for (const shape of [
    [1, 3, 1, 1],
    [1, 27],
    [1, 3, 5, 5],
  ]) {
    const data = new Float32Array(shape.reduce((product, length) => product * length, 1))
    const file = await write(t, [{ name: `${name}.lora_down.weight`, dtype: 'F32', shape, data }, up])
    await assert.rejects(readAdapters(kind, file, { ...target, layers: { unet: [conv] } }), {
      code: 'LORA_MISMATCH',
      message: /Expected \[rank, 3, 3, 3\] for .* but received/,
    })
  }
})

test("diffusers' and PEFT's layouts say the same as kohya's", async (t) => {
  const { path, inFeatures } = modules[2]!
  const [down, up] = [pattern('down', 2 * inFeatures), pattern('up', 6 * 2)]
  const layouts: [string, string, Record<string, string>, number][] = [
    [`unet.${path}.lora_A.weight`, `unet.${path}.lora_B.weight`, {}, 1],
    [`unet.${path}.lora.down.weight`, `unet.${path}.lora.up.weight`, {}, 1],
    [`${path}.lora_A.weight`, `${path}.lora_B.weight`, { lora_adapter_metadata: '{"r":2,"lora_alpha":5}' }, 2.5],
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

test("a linear layer's LoRA may be a 1×1 kernel, as kohya's of SD2 from a single file", async (t) => {
  const layer = linear('mid_block.attentions.0.proj_in', 6, 6)
  const given = { ...target, layers: { unet: [layer] } }
  const read = async (kernel: number[]) => {
    const tensors = (['down', 'up'] as const).map((role): NamedTensor => {
      const shape = [...(role === 'down' ? [2, 6] : [6, 2]), ...kernel]
      return { name: `${kohyaName(layer.path)}.lora_${role}.weight`, dtype: 'F32', shape, data: pattern(role, 12) }
    })
    return (await readAdapters(kind, await write(t, tensors), given)).get('unet')!.get(layer.path)!
  }
  assert.deepEqual(await read([1, 1]), await read([]))
})

test('an alpha of 0 means the rank', async (t) => {
  const adapters = attached([modules[1]!], 2, 0)
  const lora = await readLora(await write(t, await fileTensors('kohya', adapters, random('b', adapters), 'F32', prefixes)))
  assert.equal(lora.get(modules[1]!.path)?.scale, 1)
})

test('a stack of LoRAs of different ranks and layers adds what each adds, times its weight', async () => {
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
  const { specs, weights } = await stackLoras(parts)
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
  assert.deepEqual(await stackLoras([]), { specs: [], weights: new Float32Array(0) })
})

const matrix = (name: string, rows: number, columns: number): NamedTensor => ({
  ...{ name, dtype: 'F32', shape: [rows, columns] },
  data: new Float32Array(rows * columns),
})
const to_out = kohyaName(modules[1]!.path)
const pair = (rank: number, inputs = 6) => [matrix(`${to_out}.lora_down.weight`, rank, inputs), matrix(`${to_out}.lora_up.weight`, 6, rank)]
const refused: { what: string; tensors: NamedTensor[]; code: string; says: RegExp }[] = [
  { what: 'nothing', tensors: [], code: 'LORA_UNSUPPORTED', says: /received none/ },
  { what: 'half of a layer', tensors: [pair(1)[0]!], code: 'LORA_UNSUPPORTED', says: /both matrices beside ".*lora_down\.weight"/ },
  {
    what: 'a layer in two layouts',
    tensors: [...pair(1), matrix(`unet.${modules[1]!.path}.lora_A.weight`, 1, 6)],
    code: 'LORA_UNSUPPORTED',
    says: /one LoRA in .* but received two: ".*" and ".*"/,
  },
  {
    what: 'a layer the model lacks',
    tensors: [matrix('lora_unet_mid_block_attentions_7_proj_in.lora_down.weight', 1, 6)],
    code: 'LORA_MISMATCH',
    says: /received "lora_unet_mid_block_attentions_7_proj_in/,
  },
  {
    what: 'a layer of another size',
    tensors: pair(1, 8),
    code: 'LORA_MISMATCH',
    says: /Expected \[rank, 6\] for .* but received \[ 1, 8 \]/,
  },
  { what: 'rank 0', tensors: pair(0), code: 'LORA_INVALID', says: /a rank of 1 or more in .* but received \[ 0, 6 \]/ },
  ...[Number.NaN, Infinity, -Infinity].map((value) => ({
    what: `${value} among its numbers`,
    tensors: pair(1).map((tensor, i) => (i ? { ...tensor, data: tensor.data.map((zero, at) => (at === 3 ? value : zero)) } : tensor)),
    code: 'LORA_INVALID',
    says: /finite numbers in .* but received NaN or infinity for ".*lora_up\.weight"; its training failed/,
  })),
  ...[[Number.NaN], [Infinity], [1, 2], []].map((values) => ({
    what: `an alpha of [${values}]`,
    tensors: [...pair(1), { name: `${to_out}.alpha`, dtype: 'F32' as const, shape: [values.length], data: Float32Array.from(values) }],
    code: 'LORA_INVALID',
    says: /one finite number for ".*alpha" in /,
  })),
]

for (const { what, tensors, code, says } of refused) {
  test(`a file with ${what} is refused`, async (t) => {
    await assert.rejects(readLora(await write(t, tensors)), { code, message: says })
  })
}

test('a weight that makes a LoRA overflow is refused', async () => {
  const { path, inFeatures, outFeatures } = modules[0]!
  const part = { rank: 1, scale: 1, down: new Float32Array(inFeatures).fill(1), up: new Float32Array(outFeatures).fill(1e30) }
  await assert.rejects(stackLoras([{ part: new Map([[path, part]]), weight: 1e30 }]), {
    code: 'LORA_INVALID',
    message: /use smaller weights/,
  })
})

test('matrices of 8 bits are read, and alphas of any type', async (t) => {
  // 2, −1 and 448 in both types of 8 bits; the largest of F8_E5M2 is 57,344.
  const bytes = { F8_E4M3: [0x40, 0xb8, 0x7e], F8_E5M2: [0x40, 0xbc, 0x5f] }
  const alphas: [string, ArrayBufferView][] = [
    ['I64', BigInt64Array.of(3n)],
    ['I32', Int32Array.of(3)],
    ['F64', Float64Array.of(3)],
    ['BF16', Uint16Array.of(0x4040)],
  ]
  for (const [dtype, [two, minusOne, large]] of Object.entries(bytes) as [string, [number, number, number]][]) {
    for (const [type, alpha] of alphas) {
      const file = join(await temporaryFolder(t), 'x.safetensors')
      await writeRaw(file, [
        { name: `${to_out}.lora_down.weight`, dtype, shape: [2, 6], data: Uint8Array.of(two, minusOne, large, 0, 0, 0, 0, 0, 0, 0, 0, 0) },
        { name: `${to_out}.lora_up.weight`, dtype, shape: [6, 2], data: new Uint8Array(12).fill(minusOne) },
        { name: `${to_out}.alpha`, dtype: type, shape: [], data: alpha },
      ])
      const part = (await readLora(file)).get(modules[1]!.path)!
      assert.equal(part.scale, 1.5, `${dtype} ${type}`)
      assert.deepEqual([...part.down.subarray(0, 4), part.up[11]], [2, -1, 448, 0, -1], dtype)
    }
  }
})

test('matrices of whole numbers are refused, not called damaged', async (t) => {
  const file = join(await temporaryFolder(t), 'x.safetensors')
  await writeRaw(file, [{ name: `${to_out}.lora_down.weight`, dtype: 'I8', shape: [1, 6], data: new Uint8Array(6) }])
  await assert.rejects(readLora(file), { code: 'LORA_UNSUPPORTED', message: /Expected floats in .* but received I8 for/ })
})

test('damaged LoRAs are refused by a code, or give finite numbers', async (t) => {
  const adapters = attached(modules, 2, 3)
  const whole = await readFile(await write(t, await fileTensors('kohya', adapters, random('c', adapters), 'F16', prefixes)))
  const file = join(await temporaryFolder(t), 'x.safetensors')
  const damage = fc.array(fc.tuple(fc.nat(whole.length - 1), fc.constantFrom(0, 0x22, 0x7c, 0x7f, 0xff)), { minLength: 1, maxLength: 3 })
  const codes = ['SAFETENSORS_INVALID', 'LORA_INVALID', 'LORA_UNSUPPORTED', 'LORA_MISMATCH']
  await fc.assert(
    fc.asyncProperty(damage, async (changes) => {
      const bytes = Uint8Array.from(whole)
      for (const [at, value] of changes) bytes[at] = value
      await writeFile(file, bytes)
      const found = await readLora(file).catch((error: { code?: string }) => String(error.code))
      if (typeof found === 'string') assert.ok(codes.includes(found), found)
      else assert.ok((await stackLoras([{ part: found, weight: 1 }])).weights.every(Number.isFinite))
    }),
    { numRuns: 300 },
  )
})

test('large LoRAs are stacked in pieces', async () => {
  const [rank, inFeatures, outFeatures] = [64, 40, 5000]
  const large = linear(`${block}.attn1.to_q`, inFeatures, outFeatures)
  const [down, up] = [pattern('down', rank * inFeatures), pattern('up', outFeatures * rank)]
  const part: Lora = new Map([[large.path, { rank, scale: 1, down, up }]])
  const session = new FakeSession([large])
  let turns = 0
  await attachStack(session, kind, stackOf([{ part, weight: 1 }]), async () => void turns++)
  assert.deepEqual(session.read('weights').subarray(0, down.length), down)
  assert.deepEqual(session.read('weights').subarray(down.length), up)
  assert.equal(turns, Math.ceil((outFeatures * rank) / 16384))
})
