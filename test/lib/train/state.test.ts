import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { writeSafetensors } from '../../../lib/files/safetensors.js'
import type { BufferInfo } from '../../../lib/native.js'
import {
  checkIdentity,
  type Identity,
  newestState,
  readState,
  removeOldStates,
  statePathOf,
  type TrainingState,
  writeState,
} from '../../../lib/train/state.js'
import { temporaryFolder } from '../../fixtures/temporary.js'
import { pattern } from '../../train/pattern.js'

const identity: Identity = { model: 'a', images: 'b', settings: { rank: 4, seed: 1, alpha: 4, background: [255, 255, 255] } }

const infos = (count = 9): BufferInfo[] => ['weights', 'firstMoment', 'secondMoment'].map((name) => ({ name, dtype: 'F32', count }))

function state(step = 7, sessionId = 1, startedAt = 100.5): TrainingState {
  const run = { sessionId, startedAt }
  const buffers = { weights: pattern('w', 9), firstMoment: pattern('m', 9), secondMoment: pattern('v', 9) }
  return { step, run, lossScale: { value: 1024, growing: 3, skipped: 2 }, identity, buffers }
}

test('a state comes back to the bit', async (t) => {
  const path = join(await temporaryFolder(t), 'x-state.safetensors')
  await writeState(path, state())
  assert.deepEqual(await readState(path, structuredClone(identity), infos()), state())
})

test('a state of version 0.1.0 is read: its names, its metadata and its checksum', async (t) => {
  const path = join(await temporaryFolder(t), 'x-state.safetensors')
  const { buffers, lossScale, run, step } = state()
  const names = ['weights', 'firstMoment', 'secondMoment']
  const sha256 = createHash('sha256')
  for (const name of names) sha256.update(new Uint8Array(buffers[name]!.buffer))
  const tensors = names.map((name) => ({ name, dtype: 'F32' as const, shape: [9], data: buffers[name]! }))
  const about = { version: 1, step, ...run, identity, lossScale, sha256: sha256.digest('hex') }
  await writeSafetensors(path, tensors, { lorafuse_state: JSON.stringify(about) })
  assert.deepEqual(await readState(path, identity, infos()), state())
})

test('what is not known yet is checked later', async (t) => {
  const path = join(await temporaryFolder(t), 'x-state.safetensors')
  await writeState(path, state())
  const { model, settings } = identity
  const read = await readState(path, { model, settings }, infos())
  checkIdentity(path, read.identity, { images: 'b' })
  assert.throws(() => checkIdentity(path, read.identity, { images: 'z' }), {
    code: 'STATE_MISMATCH',
    message: /of other images or captions;/,
  })
})

const others: [string, Identity, RegExp][] = [
  ['another model', { ...identity, model: 'z' }, /received one of another model;/],
  ['other images', { ...identity, images: 'z' }, /received one of other images or captions;/],
  ['other settings', { ...identity, settings: { ...identity.settings, rank: 8 } }, /received one of rank 4 instead of 8;/],
  ['a setting more', { ...identity, settings: { ...identity.settings, flip: true } }, /flip none instead of true/],
  ['a setting less', { ...identity, settings: { rank: 4, seed: 1, alpha: 4 } }, /background \[255,255,255\] instead of none/],
  ['several differences', { model: 'z', images: 'b', settings: { ...identity.settings, seed: 2 } }, /another model, seed 1 instead of 2/],
]

for (const [what, now, message] of others) {
  test(`a state of ${what} is refused, and what differs is named`, async (t) => {
    const path = join(await temporaryFolder(t), 'x-state.safetensors')
    await writeState(path, state())
    await assert.rejects(readState(path, now, infos()), { code: 'STATE_MISMATCH', message })
  })
}

test('a state that is missing, cut off, altered, no state, or of another length is refused', async (t) => {
  const folder = await temporaryFolder(t)
  const path = join(folder, 'x-state.safetensors')
  await assert.rejects(readState(path, identity, infos()), { code: 'STATE_NOT_FOUND' })
  await writeState(path, state())
  await assert.rejects(readState(path, identity, infos(10)), {
    code: 'STATE_INVALID',
    message: /9 numbers of weights where this run has 10/,
  })
  const bytes = await readFile(path)
  for (const damaged of [bytes.subarray(0, -1), bytes.subarray(0, 40), Buffer.alloc(0)]) {
    await writeFile(path, damaged)
    await assert.rejects(readState(path, identity, infos()), { code: 'STATE_INVALID', message: /damaged file/ })
  }
  const altered = Buffer.from(bytes)
  altered[bytes.length - 3]! ^= 1
  await writeFile(path, altered)
  await assert.rejects(readState(path, identity, infos()), { code: 'STATE_INVALID', message: /checksum/ })
  await writeSafetensors(path, [], { ss_network_dim: '4' })
  await assert.rejects(readState(path, identity, infos()), { code: 'STATE_INVALID', message: /another file/ })
  await writeSafetensors(path, [], { lorafuse_state: '{' })
  await assert.rejects(readState(path, identity, infos()), { code: 'STATE_INVALID' })
  await writeSafetensors(path, [], { lorafuse_state: '{"version":2}' })
  await assert.rejects(readState(path, identity, infos()), { code: 'STATE_INVALID', message: /version 2; update/ })
})

test('the newest state is the last run’s last, whatever the names say', async (t) => {
  const folder = await temporaryFolder(t)
  const write = (name: string, ...about: [number, number, number]) => writeState(join(folder, name), state(...about))
  assert.equal(await newestState(folder, 'x'), undefined)
  await write('x-step00000900-state.safetensors', 900, 1, 50)
  await write('x-000002-state.safetensors', 20, 2, 60)
  await write('x-step00000010-state.safetensors', 10, 2, 60)
  await write('xy-step00000010-state.safetensors', 10, 3, 70)
  await write('x-other-state.safetensors', 10, 3, 80)
  assert.equal(await newestState(folder, 'x'), join(folder, 'x-000002-state.safetensors'))
  await write('x-state.safetensors', 30, 2, 60)
  assert.equal(await newestState(folder, 'x'), join(folder, 'x-state.safetensors'))
  await writeFile(join(folder, 'x-step00000040-state.safetensors'), 'half')
  await assert.rejects(newestState(folder, 'x'), { code: 'STATE_INVALID' })
})

test("of a run's states the newest two stay; other runs' and damaged ones are not touched", async (t) => {
  const folder = await temporaryFolder(t)
  for (const step of [100, 20, 3]) await writeState(join(folder, `x-step0000000${step}-state.safetensors`), state(step))
  await writeState(join(folder, 'x-000001-state.safetensors'), state(1, 9, 200))
  await writeFile(join(folder, 'x-000002-state.safetensors'), 'half')
  await writeFile(join(folder, 'x-step000000003.safetensors'), '')
  await removeOldStates(folder, 'x', { sessionId: 1, startedAt: 100.5 })
  const left = (await readdir(folder)).sort()
  assert.deepEqual(left, [
    'x-000001-state.safetensors',
    'x-000002-state.safetensors',
    'x-step000000003.safetensors',
    'x-step0000000100-state.safetensors',
    'x-step000000020-state.safetensors',
  ])
})

test('a state lies beside its checkpoint', () => {
  assert.equal(statePathOf('a.safetensors/x-000001.safetensors'), 'a.safetensors/x-000001-state.safetensors')
})
