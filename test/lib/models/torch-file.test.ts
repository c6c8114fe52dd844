import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { type NumberType, widen } from '../../../lib/files/floats.js'
import { readCheckpoint, weightsOf } from '../../../lib/models/checkpoint.js'
import { pickled, pickledTensor, torchLegacy, torchLegacyOf, torchZip, zip } from '../../fixtures/pickles.js'
import type { RawTensor } from '../../fixtures/safetensors.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

/** Written by torch.save, with what torch loads from them (scripts/goldens/pickles.py). */
const folder = fileURLToPath(new URL('../../../../test/fixtures/pickles', import.meta.url))
type Expected = Record<string, Record<string, { dtype: string; shape: number[]; bytes: string; values?: number[] }>>
const expected = JSON.parse(await readFile(join(folder, 'expected.json'), 'utf8')) as Expected

const { op, text, number, global, tuple, dict, whole } = pickled
const weight: RawTensor = { name: 'a', dtype: 'F32', shape: [2, 3], data: Float32Array.of(1, 2, 3, 4, 5, 6) }
const bytes = Buffer.from(weight.data.buffer)

/** Reads bytes as a file. */
async function read(t: TestContext, content: Buffer) {
  const path = join(await temporaryFolder(t), 'file.ckpt')
  await writeFile(path, content)
  return readCheckpoint(path, 'a checkpoint')
}

/** A zip as torch writes it, of a pickle and one storage. */
const zipped = (pickle: Buffer, data = bytes) =>
  zip([
    { name: 'a/data.pkl', data: pickle },
    { name: 'a/data/0', data },
  ])

for (const name of ['zip', 'legacy', 'protocol-4', 'eight', 'trainer', 'trainer-legacy']) {
  test(`tensors of ${name}.pt are those that torch loads, where they lie in the file`, async () => {
    const path = join(folder, `${name}.pt`)
    const file = await readFile(path)
    const { tensors, metadata } = await readCheckpoint(path, 'a checkpoint')
    const found = tensors.map(({ name, dtype, shape, offset, byteLength, problem }) => {
      assert.equal(problem, undefined)
      const data = file.subarray(offset, offset + byteLength)
      // torch's values of floats of 8 bits.
      const values = dtype.startsWith('F8') && { values: [...widen(data, dtype as NumberType)] }
      return [name, { dtype, shape, ...values, bytes: data.toString('hex') }]
    })
    assert.deepEqual(Object.fromEntries(found), expected[name])
    if (name.startsWith('trainer')) assert.deepEqual(metadata, { global_step: '875000' })
    // A class in these files would make it.
    assert.ok(!existsSync('hostile-was-here'))
  })
}

test('a tensor that does not lie in its order is refused where it is used', async () => {
  const checkpoint = await readCheckpoint(join(folder, 'strided.pt'), 'a checkpoint')
  assert.deepEqual(
    weightsOf(checkpoint, (name) => (name === 'whole' ? 'w' : undefined)).tensors.map(({ name }) => name),
    ['w'],
  )
  assert.throws(() => weightsOf(checkpoint, (name) => name), { code: 'PICKLE_UNSUPPORTED', message: /"turned".*rows/ })
})

test('a part of a storage is read where it lies, and what torch keeps in no plain tensor is refused by name where it is used', async () => {
  const path = join(folder, 'odd.pt')
  const [file, checkpoint] = [await readFile(path), await readCheckpoint(path, 'a checkpoint')]
  const only = (wanted: string) => weightsOf(checkpoint, (name) => (name === wanted ? name : undefined)).tensors
  for (const [name, { dtype, shape, bytes }] of Object.entries(expected.odd!)) {
    const [found] = only(name)
    assert.deepEqual([found!.dtype, found!.shape], [dtype, shape], name)
    assert.equal(file.subarray(found!.offset, found!.offset + bytes.length / 2).toString('hex'), bytes, name)
  }
  assert.deepEqual(Object.keys(expected.odd!), ['plain', 'tail', 'head'])
  const refused: Record<string, RegExp> = {
    quantized: /"quantized" whole and in its order but it is made by torch\._utils\._rebuild_qtensor/,
    sparse: /"sparse" .* made by torch\._utils\._rebuild_sparse_tensor/,
    complex: /"complex" .* its numbers are of another type, "torch\.ComplexFloatStorage"/,
    numpy: /"numpy" .* made by numpy\._?core\.multiarray\._reconstruct/,
    spread: /"spread" .* rows do not lie one after the other \(strides \[ 0 \]\)/,
    few: /"few" .* rows/,
  }
  for (const [name, message] of Object.entries(refused)) {
    assert.throws(() => only(name), { name: 'LorafuseError', code: 'PICKLE_UNSUPPORTED', message })
  }
})

test('a storage that is a view of another, as old files have them, begins where it says', async (t) => {
  const large: RawTensor = { name: 'root', dtype: 'F32', shape: [8], data: Float32Array.from({ length: 8 }, (_, i) => i) }
  const view = (begin: number) => tuple(text('view'), number(begin), number(3))
  const part = (begin: Buffer) => pickledTensor({ ...large, shape: [3] }, '0', true, 8, begin)
  const file = torchLegacyOf(
    [
      ['part', part(view(5))],
      ['odd', part(text('?'))],
    ],
    [large],
  )
  const checkpoint = await read(t, file)
  const [found] = checkpoint.tensors
  const bytes = new Uint8Array(file.subarray(found!.offset, found!.offset + found!.byteLength))
  assert.deepEqual([...widen(bytes, 'F32')], [5, 6, 7])
  assert.throws(() => weightsOf(checkpoint, (name) => name), {
    code: 'PICKLE_UNSUPPORTED',
    message: /"odd" .* its storage is a view of an unknown kind/,
  })
  await assert.rejects(read(t, torchLegacyOf([['part', part(view(6))]], [large])), {
    code: 'PICKLE_INVALID',
    message: /end within its storage/,
  })
})

test('files that hold no dict of tensors are refused', async (t) => {
  for (const name of ['module', 'plain']) {
    await assert.rejects(readCheckpoint(join(folder, `${name}.pt`), 'a checkpoint'), { code: 'PICKLE_UNSUPPORTED' }, name)
  }
  await assert.rejects(read(t, zip([{ name: 'x', data: bytes }])), { code: 'PICKLE_UNSUPPORTED', message: /data\.pkl/ })
})

test('compressed members, another byte order, and sizes that lie are refused', async (t) => {
  const pickle = whole(dict([['a', pickledTensor(weight, '0', false)]]))
  const members = (...more: Parameters<typeof zip>[0]) => read(t, zip([{ name: 'a/data.pkl', data: pickle }, ...more]))
  const compressed = await members({ name: 'a/data/0', data: bytes, method: 8 })
  assert.throws(() => weightsOf(compressed, (name) => name), { code: 'PICKLE_UNSUPPORTED', message: /compressed/ })
  const big = members({ name: 'a/data/0', data: bytes }, { name: 'a/byteorder', data: Buffer.from('big') })
  await assert.rejects(big, { code: 'PICKLE_UNSUPPORTED', message: /little-endian/ })
  await assert.rejects(members({ name: 'a/data/0', data: bytes.subarray(4) }), { code: 'PICKLE_INVALID', message: /24 bytes.*20/ })
  await assert.rejects(members({ name: 'a/data/0', data: bytes, size: 2 ** 31 }), { code: 'PICKLE_INVALID' })
  await assert.rejects(members(), { code: 'PICKLE_INVALID', message: /storage "0"/ })
  const twice = members({ name: 'a/data/0', data: bytes }, { name: 'a/data/0', data: bytes })
  await assert.rejects(twice, { code: 'PICKLE_INVALID', message: /different names/ })
  const long = whole(dict([['a', pickledTensor({ ...weight, shape: [2 ** 30, 2 ** 10] }, '0', false)]]))
  await assert.rejects(read(t, zipped(long)), { code: 'PICKLE_INVALID' })
})

test('calls of anything are not made, and what they would return is left out', async (t) => {
  const call = Buffer.concat([global('os', 'system'), tuple(text('touch hostile-was-here')), op('R')])
  const built = Buffer.concat([global('builtins', 'eval'), op(')'), op('\x81'), dict([['x', number(1)]]), op('b')])
  const state = dict([
    ['run', call],
    ['built', built],
    ['a', pickledTensor(weight, '0', false)],
  ])
  const { tensors } = await read(t, zipped(whole(state)))
  assert.deepEqual(
    tensors.map(({ name }) => name),
    ['a'],
  )
  assert.ok(!existsSync('hostile-was-here'))
})

test('cycles, bombs and nonsense end in a sentence, soon', async (t) => {
  const rest = [op('u')]
  const cycle = whole(op('}q\x00('), text('state_dict'), op('h\x00'), ...rest)
  const itself = whole(op(']q\x00'), op('h\x00a.'))
  const doubling = whole(op(']q\x00'), ...Array.from({ length: 200 }, () => op('0(h\x00h\x00tq\x00')))
  // A class that is named by lists in lists.
  const named = whole(op('(U\x08aaaaaaaalq\x00'), op('0(h\x00h\x00lq\x00'.repeat(30)), op('h\x00h\x00\x93'))
  const manyValues = whole(op('N'.repeat(2 ** 21)))
  const manyDicts = whole(op('}0'.repeat(2 ** 20)))
  const list = Buffer.concat([op('](\x00'.slice(0, 2)), op(')'.repeat(2 ** 18)), op('e\x85q\x010')])
  const calls = whole(list, global('collections', 'OrderedDict'), op('q\x020'), op('h\x02h\x01R0'.repeat(2 ** 14)), op('N'))
  const longText = whole(op('X\xff\xff\xff\xff'))
  const longNumber = whole(op('\x8b\xff\xff\xff\x7f'))
  const noMark = whole(op('u'))
  const nothing = whole(op('R'))
  const noMemo = whole(op('h\x09'))
  const unknown = whole(op('\xff'))
  for (const pickle of [
    cycle,
    itself,
    doubling,
    named,
    manyValues,
    manyDicts,
    calls,
    longText,
    longNumber,
    noMark,
    nothing,
    noMemo,
    unknown,
  ]) {
    await assert.rejects(read(t, zipped(pickle)), { name: 'LorafuseError', code: /^PICKLE_/ })
  }
})

test('a file cut short anywhere is refused, or read up to what is there', async (t) => {
  for (const file of [torchZip([weight]), torchLegacy([weight])]) {
    for (let length = 16; length < file.length; length += 7) {
      await assert.rejects(read(t, file.subarray(0, length)), { name: 'LorafuseError' }, `${length}`)
    }
  }
})
