import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFile, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { readHeader, readTensors, writeSafetensors } from '../../../lib/files/safetensors.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

const root = fileURLToPath(new URL('../../../..', import.meta.url))

/** A file with this header, whatever it says, and `size` bytes of data. */
function file(header: unknown, size: number, claimed?: bigint): Uint8Array {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const bytes = Buffer.alloc(8 + json.length + size)
  bytes.writeBigUInt64LE(claimed ?? BigInt(json.length))
  json.copy(bytes, 8)
  return bytes
}

const f32 = (shape: unknown, ...offsets: unknown[]) => ({ dtype: 'F32', shape, data_offsets: offsets })
const whole = file({ good: f32([2], 0, 8) }, 8)

/** A header of tensors without elements. */
const manyTensors = (count: number) =>
  `{${Array.from({ length: count }, (_, i) => `"${i}":{"dtype":"U8","shape":[1,1,1,0],"data_offsets":[0,0]}`).join()}}`

const lies: [string, Uint8Array, RegExp][] = [
  ['an empty file', Buffer.alloc(0), /received 0 bytes/],
  ['a file shorter than the length prefix', Buffer.alloc(7), /received 7 bytes/],
  ['a header of 10 GB', file({}, 0, 10_000_000_000n), /claims 10000000000/],
  ['a header of 2⁶⁴−1 bytes', file({}, 0, 0xffff_ffff_ffff_ffffn), /at most 100000000 bytes/],
  ['a header longer than the file', file({}, 0, 1000n), /header of 1000 bytes but the file has 10/],
  ['a header that is no JSON', file('{"a', 0), /JSON object for the header/],
  [
    'a header that is no UTF-8',
    Buffer.concat([file({}, 0, 4n).subarray(0, 8), Buffer.from([0x7b, 0xff, 0xfe, 0x7d])]),
    /JSON object for the header/,
  ],
  ['a header of arrays in arrays', file(`{"a":${'['.repeat(1000)}${']'.repeat(1000)}}`, 0), /JSON object for the header/],
  ['a header of more tensors than any model has', file(manyTensors(100_001), 0), /at most 100000 tensors but the header has more/],
  ['a header of a million numbers', file(`{"a":[0${',0'.repeat(1e6)}]}`, 0), /at most 100000 tensors but the header has more/],
  ['a header that is a list', file([], 0), /JSON object/],
  ['metadata that are no strings', file({ __metadata__: { step: 1 } }, 0), /strings for __metadata__/],
  ['an unknown dtype', file({ bad: { dtype: 'F31', shape: [1], data_offsets: [0, 4] } }, 4), /dtype for tensor "bad" .*"F31"/],
  ['a dtype named like a method', file({ bad: { dtype: 'toString', shape: [], data_offsets: [0, 4] } }, 4), /dtype for tensor "bad"/],
  ['a tensor without a description', file({ bad: null }, 0), /dtype for tensor "bad"/],
  ['a negative shape', file({ bad: f32([-1], 0, 4) }, 4), /shape of tensor "bad"/],
  ['a fractional shape', file({ bad: f32([0.5], 0, 2) }, 2), /shape of tensor "bad"/],
  ['a shape that overflows', file({ bad: f32([2 ** 40, 2 ** 40], 0, 4) }, 4), /bytes for tensor "bad"/],
  ['one offset', file({ bad: f32([1], 0) }, 4), /offsets of tensor "bad"/],
  ['offsets the wrong way round', file({ bad: f32([1], 4, 0) }, 4), /4 bytes for tensor "bad" .* received -4/],
  ['a length that is not the shape’s', file({ bad: f32([2], 0, 4) }, 4), /8 bytes for tensor "bad" \(F32 \[ 2 \]\) but received 4/],
  ['offsets beyond the file', file({ bad: f32([2], 0, 8) }, 4), /tensor "bad" to end/],
  ['overlapping tensors', file({ a: f32([2], 0, 8), bad: f32([2], 4, 12) }, 12), /tensor "bad" .* overlaps/],
  ['a hole between tensors', file({ a: f32([1], 0, 4), bad: f32([1], 8, 12) }, 12), /tensor "bad" .* hole/],
  ['bytes after the last tensor', file({ a: f32([1], 0, 4) }, 5), /end with its last tensor/],
  ['a truncated file', whole.subarray(0, whole.length - 1), /tensor "good" to end/],
]
for (const [name, bytes, message] of lies) {
  test(`${name} is refused by name`, async (t) => {
    const path = join(await temporaryFolder(t), 'lie.safetensors')
    await writeFile(path, bytes)
    const expected = { name: 'LorafuseError', code: 'SAFETENSORS_INVALID', message }
    await assert.rejects(readHeader(path), expected)
    await assert.rejects(readTensors(path), { ...expected, message: new RegExp(path) })
  })
}

test('a missing file, a folder, a pipe, a device and a circle of links are refused at once, with what was expected', async (t) => {
  const folder = await temporaryFolder(t)
  const [none, pipe, circle] = ['none', 'pipe', 'circle'].map((name) => join(folder, name)) as [string, string, string]
  execFileSync('mkfifo', [pipe])
  await symlink(circle, circle)
  for (const [path, code, received] of [
    [none, 'FILE_NOT_FOUND', 'nothing of that name'],
    [folder, 'FILE_UNREADABLE', 'a folder'],
    [pipe, 'FILE_UNREADABLE', 'a pipe'],
    ['/dev/zero', 'FILE_UNREADABLE', 'a device'],
    [circle, 'FILE_UNREADABLE', 'links that lead in a circle'],
    [join(import.meta.filename, 'x'), 'FILE_NOT_FOUND', 'a path that leads through a file'],
  ] as const) {
    const expected = { code, message: `Expected a safetensors file at ${path} but received ${received}` }
    await assert.rejects(readHeader(path), expected)
    await assert.rejects(readTensors(path), expected)
  }
})

test('what a damaged header says is cut in the error', async (t) => {
  const path = join(await temporaryFolder(t), 'long')
  for (const header of [
    { ['x'.repeat(10_000)]: null },
    { a: f32(new Array(10_000).fill(1), 0, 3) },
    { a: { dtype: 'x'.repeat(10_000) } },
  ]) {
    await writeFile(path, file(header, 0))
    await assert.rejects(readHeader(path), ({ message }: Error) => message.length < 400 + path.length)
  }
})

test('a header gives absolute offsets in the order of the bytes', async (t) => {
  const path = join(await temporaryFolder(t), 'a.safetensors')
  await writeFile(
    path,
    file(
      {
        __metadata__: { a: 'b' },
        second: f32([], 8, 12),
        first: { dtype: 'U64', shape: [1], data_offsets: [0, 8] },
        none: f32([0, 3], 8, 8),
      },
      12,
    ),
  )
  const { metadata, tensors, dataStart, size } = await readHeader(path)
  assert.deepEqual(metadata, { a: 'b' })
  assert.equal(size, dataStart + 12)
  assert.deepEqual(tensors, [
    { name: 'first', dtype: 'U64', shape: [1], offset: dataStart, byteLength: 8 },
    { name: 'none', dtype: 'F32', shape: [0, 3], offset: dataStart + 8, byteLength: 0 },
    { name: 'second', dtype: 'F32', shape: [], offset: dataStart + 8, byteLength: 4 },
  ])
  await assert.rejects(readTensors(path), {
    code: 'SAFETENSORS_INVALID',
    message: /tensor "first" .* received U64, which is not supported/,
  })
  await assert.rejects(readTensors(path, ['gone']), { code: 'SAFETENSORS_INVALID', message: /named "gone"/ })
  assert.deepEqual([...(await readTensors(path, ['second'])).keys()], ['second'])
  const header = await readHeader(path)
  await writeFile(path, Buffer.alloc(header.size))
  assert.deepEqual((await readTensors(path, ['second'], header)).get('second'), { dtype: 'F32', shape: [], data: Float32Array.of(0) })
})

test('what is written is read back, rounded to its dtype', async (t) => {
  const path = join(await temporaryFolder(t), 'a.safetensors')
  const data = Float32Array.from([1, -2.5, 1 / 3, 65504, 1e-7, -0])
  await writeSafetensors(path, [
    { name: 'b.half', dtype: 'F16', shape: [2, 3], data },
    { name: 'a.single', dtype: 'F32', shape: [6], data },
    { name: 'a.brain', dtype: 'BF16', shape: [3, 2], data },
    { name: 'a.alpha', dtype: 'F16', shape: [], data: Float32Array.of(4) },
  ])
  const tensors = await readTensors(path)
  assert.deepEqual([...tensors.keys()], ['a.single', 'a.alpha', 'a.brain', 'b.half'])
  assert.deepEqual(tensors.get('a.single'), { dtype: 'F32', shape: [6], data })
  assert.deepEqual(tensors.get('a.alpha'), { dtype: 'F16', shape: [], data: Float32Array.of(4) })
  assert.deepEqual(tensors.get('b.half')?.data, Float32Array.from([1, -2.5, 0.333251953125, 65504, 2 ** -23, -0]))
  assert.deepEqual(tensors.get('a.brain')?.data[2], 0.333984375)
})

test('a written header begins with {" and is padded to 8 bytes', async (t) => {
  const folder = await temporaryFolder(t)
  for (let extra = 0; extra < 9; extra++) {
    const path = join(folder, `${extra}`)
    await writeSafetensors(path, [{ name: 'x'.repeat(extra + 1), dtype: 'F32', shape: [1], data: Float32Array.of(7) }], { note: 'é"\n' })
    const bytes = await readFile(path)
    assert.equal(bytes.subarray(8, 10).toString(), '{"')
    assert.equal(bytes.readBigUInt64LE() % 8n, 0n)
    assert.equal((await readHeader(path)).metadata.note, 'é"\n')
  }
})

test('a header of as many tensors as there may be reads', async (t) => {
  const path = join(await temporaryFolder(t), 'many.safetensors')
  await writeFile(path, file(manyTensors(100_000), 0))
  assert.equal((await readHeader(path)).tensors.length, 100_000)
})

test('the bundled model reads', async () => {
  const path = join(root, 'examples/tiny-sd/unet/diffusion_pytorch_model.safetensors')
  const { tensors } = await readHeader(path)
  assert.deepEqual(tensors.find(({ name }) => name === 'conv_in.weight')?.shape, [64, 4, 3, 3])
  const weight = (await readTensors(path, ['conv_in.weight'])).get('conv_in.weight')
  assert.equal(weight?.data.length, 64 * 4 * 9)
  assert.ok(weight.data.every(Number.isFinite))
})

test('random bytes never pass for a file, nor break the reader', async (t) => {
  const path = join(await temporaryFolder(t), 'random')
  const damage = fc.array(fc.tuple(fc.nat(whole.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 })
  await fc.assert(
    fc.asyncProperty(damage, async (changes) => {
      const bytes = Uint8Array.from(whole)
      for (const [at, value] of changes) bytes[at] = value
      await writeFile(path, bytes)
      const header = await readHeader(path).catch((error: { code?: string }) => error.code)
      if (typeof header === 'object') assert.ok(header.tensors.every(({ offset, byteLength }) => offset + byteLength <= header.size))
      else assert.equal(header, 'SAFETENSORS_INVALID')
    }),
  )
})
