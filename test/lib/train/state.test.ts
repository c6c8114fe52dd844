import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { test } from 'node:test'
import { parseArguments } from '../../../lib/cli/arguments.js'
import { commands } from '../../../lib/cli/commands.js'
import { readHeader, writeSafetensors } from '../../../lib/files/safetensors.js'
import type { BufferInfo } from '../../../lib/native.js'
import { checkIdentity, type Identity, readState, statePathOf, type TrainingState, writeState } from '../../../lib/train/state.js'
import { listStates, newestState, removeOldStates, stateToResume, timeToWrite } from '../../../lib/train/states.js'
import { temporaryFolder } from '../../fixtures/temporary.js'
import { long } from '../../long.js'
import { pattern } from '../../train/pattern.js'

const identity: Identity = {
  model: { unet: 'a', vae: 'c' },
  images: 'b',
  contents: 'f',
  tokens: 't',
  settings: { rank: 4, seed: 1, alpha: 4, background: [255, 255, 255] },
}

const infos = (count = 9): BufferInfo[] => ['weights', 'firstMoment', 'secondMoment'].map((name) => ({ name, dtype: 'F32', count }))

function state(step = 7, sessionId = 1, startedAt = 100.5): TrainingState {
  const run = { sessionId, startedAt }
  const buffers = { weights: pattern('w', 9), firstMoment: pattern('m', 9), secondMoment: pattern('v', 9) }
  return { step, run, lossScale: { value: 1024, growing: 3, skipped: 2 }, identity, buffers }
}

test('a state comes back to the bit', async (t) => {
  const path = join(await temporaryFolder(t), 'x-state.safetensors')
  await writeState(path, state(), { name: 'x', writtenAt: 200 })
  assert.deepEqual(await readState(path, structuredClone(identity), infos()), state())
})

/** What a state knew before version 3: of the model the UNet alone, and no tokens. */
const earlier = { model: 'a', images: 'b', settings: identity.settings }
const readAsNow: Identity = { ...earlier, model: { unet: 'a' } }

/** Writes a state as version 0.1.0 did, its description changed. */
async function writeOld(path: string, change: Record<string, unknown> = {}, of = state()): Promise<void> {
  const { buffers, lossScale, run, step } = of
  const names = ['weights', 'firstMoment', 'secondMoment']
  const sha256 = createHash('sha256')
  for (const name of names) sha256.update(new Uint8Array(buffers[name]!.buffer))
  const tensors = names.map((name) => ({ name, dtype: 'F32' as const, shape: [9], data: buffers[name]! }))
  const about = { version: 1, step, ...run, identity: earlier, lossScale, sha256: sha256.digest('hex'), ...change }
  await writeSafetensors(path, tensors, { lorafuse_state: JSON.stringify(about) })
}

test('a state of version 0.1.0 is read: its names, its metadata and its checksum', async (t) => {
  const path = join(await temporaryFolder(t), 'x-state.safetensors')
  await writeOld(path)
  assert.deepEqual(await readState(path, structuredClone(readAsNow), infos()), { ...state(), identity: readAsNow })
  const other = { ...readAsNow, model: { unet: 'z' } }
  await assert.rejects(readState(path, other, infos()), { code: 'STATE_MISMATCH', message: /of another model \(unet\);/ })
})

test('a state of version 2 is read', async (t) => {
  const path = join(await temporaryFolder(t), 'x.state')
  await writeState(path, state(), { name: 'x', writtenAt: 200 })
  const { metadata } = await readHeader(path)
  const about = JSON.parse(metadata.lorafuse_state!) as object
  const text = JSON.stringify({ ...about, version: 2, identity: earlier })
  const tensors = infos().map(({ name }) => ({ name, dtype: 'F32' as const, shape: [9], data: state().buffers[name]! }))
  const sha256 = createHash('sha256').update(text).digest('hex')
  await writeSafetensors(path, tensors, { lorafuse_state: text, lorafuse_state_sha256: sha256 })
  assert.deepEqual(await readState(path, readAsNow, infos()), { ...state(), identity: readAsNow })
})

const odd: [string, Record<string, unknown>][] = [
  ['step', { step: undefined, steP: 7 }],
  ['step', { step: null }],
  ['step', { step: '4' }],
  ['step', { step: 0 }],
  ['step', { step: 4.5 }],
  ['step', { step: 1e300 }],
  ['sessionId', { sessionId: {} }],
  ['startedAt', { startedAt: 'today' }],
  ['identity', { identity: undefined }],
  ['identity', { identity: { model: 1, images: 'b', settings: {} } }],
  ['identity', { identity: { model: 'a', images: 'b', settings: null } }],
  ['identity', { identity: { ...earlier, settings: { rank: { a: 1 } } } }],
  ['identity', { identity }],
  ['lossScale', { lossScale: 7 }],
  ['lossScale', { lossScale: { value: 0, growing: 3, skipped: 2 } }],
  ['lossScale', { lossScale: { value: 1, growing: 3, skipped: 8 } }],
  ['sha256', { sha256: 1 }],
]

for (const [what, change] of odd) {
  test(`an old state whose description has ${JSON.stringify(change)} is refused by name`, async (t) => {
    const path = join(await temporaryFolder(t), 'x-state.safetensors')
    await writeOld(path, change)
    const message = new RegExp(`^Expected a training state at ${path} but received a damaged file: without valid ${what}\\b`)
    await assert.rejects(readState(path, identity, infos()), { code: 'STATE_INVALID', message })
  })
}

test('a state that is damaged in any bit is refused', async (t) => {
  const path = join(await temporaryFolder(t), 'x.state')
  await writeState(path, state(), { name: 'x', writtenAt: 200 })
  const bytes = await readFile(path)
  const codes = new Map<string, number>()
  // In the short run every ninth.
  for (let bit = 0; bit < bytes.length * 8; bit += long ? 1 : 9) {
    const damaged = Buffer.from(bytes)
    damaged[bit >> 3]! ^= 1 << (bit & 7)
    await writeFile(path, damaged)
    const code = await readState(path, identity, infos()).then(
      () => `bit ${bit} passes`,
      (error: { code?: string }) => String(error.code),
    )
    codes.set(code, (codes.get(code) ?? 0) + 1)
  }
  assert.deepEqual([...codes], [['STATE_INVALID', Math.ceil((bytes.length * 8) / (long ? 1 : 9))]])
})

test('a state whose description says version 1, but not all the rest of it, is refused', async (t) => {
  const folder = await temporaryFolder(t)
  const path = join(folder, 'x-state.safetensors')
  await writeState(path, state(), { name: 'x', writtenAt: 200 })
  const { metadata } = await readHeader(path)
  const { lorafuse_state: text, lorafuse_state_sha256: checksum } = metadata as Record<string, string>
  const older = text!.replace('"version":3', '"version":1').replace('"step":7', '"step":9')
  assert.notEqual(older, text)
  const tensors = infos().map(({ name }) => ({ name, dtype: 'F32' as const, shape: [9], data: state().buffers[name]! }))
  const descriptions: [string, Record<string, string>, RegExp][] = [
    ['x-state.safetensors', { lorafuse_state: older, lorafuse_state_sha256: checksum! }, /checksum of its description differs/],
    ['x-state.safetensors', { lorafuse_state: text! }, /checksum of its description differs/],
    ['x-state.safetensors', { lorafuse_state: older }, /says version 1/],
    ['x-state.safetensors', { lorafuse_state: text!.replace('"version":3', '"version":9'), lorafuse_state_sha256: checksum! }, /checksum/],
  ]
  for (const [file, description, message] of descriptions) {
    await writeSafetensors(join(folder, file), tensors, description)
    await assert.rejects(readState(join(folder, file), identity, infos()), { code: 'STATE_INVALID', message })
  }
  await writeOld(join(folder, 'x.state'))
  await assert.rejects(readState(join(folder, 'x.state'), identity, infos()), { code: 'STATE_INVALID', message: /says version 1/ })
})

test('what is not known yet is checked later', async (t) => {
  const path = join(await temporaryFolder(t), 'x-state.safetensors')
  await writeState(path, state(), { name: 'x', writtenAt: 200 })
  const { model, settings } = identity
  const read = await readState(path, { model, settings }, infos())
  checkIdentity(path, read.identity, { images: 'b' })
  assert.throws(() => checkIdentity(path, read.identity, { images: 'z' }), {
    code: 'STATE_MISMATCH',
    message: /of other images or captions;/,
  })
})

const others: [string, Identity, RegExp][] = [
  ['another UNet', { ...identity, model: { unet: 'z', vae: 'c' } }, /received one of another model \(unet\);/],
  ['another VAE', { ...identity, model: { unet: 'a', vae: 'z' } }, /received one of another model \(vae\);/],
  ['more networks', { ...identity, model: { ...identity.model, text: 'z' } }, /received one of another model \(text\);/],
  ['other tokens', { ...identity, tokens: 'z' }, /received one of another tokenizer;/],
  ['other files', { ...identity, contents: 'z' }, /received one of images of the same names but other contents;/],
  ['other captions', { ...identity, images: 'z', contents: 'z', tokens: 'z' }, /received one of other images or captions;/],
  ['other images', { ...identity, images: 'z' }, /received one of other images or captions;/],
  ['other settings', { ...identity, settings: { ...identity.settings, rank: 8 } }, /received one of rank 4 instead of 8;/],
  ['a setting more', { ...identity, settings: { ...identity.settings, flip: true } }, /flip none instead of true/],
  ['a setting less', { ...identity, settings: { rank: 4, seed: 1, alpha: 4 } }, /background \[ 255, 255, 255 \] instead of none/],
  ['values without end', { ...identity, settings: { ...identity.settings, rank: 'x'.repeat(1e5) } }, /rank 4 instead of "x{79}…;/],
  [
    'many differences',
    { model: { unet: 'z', vae: 'z' }, images: 'z', contents: 'f', tokens: 't', settings: {} },
    /one of another model \(unet, vae\), other images or captions, rank 4 instead of none, and 3 more;/,
  ],
  [
    'several differences',
    { ...identity, model: {}, settings: { ...identity.settings, seed: 2 } },
    /another model \(unet, vae\), seed 1 instead of 2/,
  ],
]

for (const [what, now, message] of others) {
  test(`a state of ${what} is refused, and what differs is named`, async (t) => {
    const path = join(await temporaryFolder(t), 'x-state.safetensors')
    await writeState(path, state(), { name: 'x', writtenAt: 200 })
    await assert.rejects(readState(path, now, infos()), { code: 'STATE_MISMATCH', message })
  })
}

test('what differs, and what to leave out, is called as the caller calls it', async (t) => {
  const path = join(await temporaryFolder(t), 'x.state')
  await writeState(path, state(), { name: 'x', writtenAt: 200 })
  const now = { ...identity, settings: { ...identity.settings, maxTokenLength: 225 } }
  const { label } = parseArguments(commands, ['train', '--max_token_length', '225'])!
  const message = /one of --max_token_length none instead of 225; .* without --resume$/
  await assert.rejects(readState(path, now, infos(), label), { code: 'STATE_MISMATCH', message })
})

test('a folder is no state to resume from; the newest, none and one by its path are', async (t) => {
  const output = await temporaryFolder(t)
  const path = join(output, 'x.state')
  await writeState(path, state(), { name: 'x', writtenAt: 200 })
  const from = (resume: string | boolean | undefined) => stateToResume({ resume, output, name: 'x' }, (name) => `--${name}`)
  for (const [resume, expected] of [
    [true, path],
    [false, undefined],
    [undefined, undefined],
    [path, path],
    ['none', 'none'],
  ] as const)
    assert.equal(await from(resume), expected)
  const advice = `name a .state file in it, or leave the path out for the newest of x in ${output}`
  const message = `Expected a training state for --resume but received the folder ${output}; ${advice}`
  await assert.rejects(from(output), { code: 'FILE_UNREADABLE', message })
})

test('a state that is missing, cut off, altered, no state, or of another length is refused', async (t) => {
  const folder = await temporaryFolder(t)
  const path = join(folder, 'x-state.safetensors')
  await assert.rejects(readState(path, identity, infos()), { code: 'STATE_NOT_FOUND' })
  await writeState(path, state(), { name: 'x', writtenAt: 200 })
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
  await writeSafetensors(path, [], { lorafuse_state: '{"version":4}' })
  await assert.rejects(readState(path, identity, infos()), { code: 'STATE_INVALID', message: /version 4; update/ })
})

test('the newest state is the one that was written last, whatever the names, steps and extensions say', async (t) => {
  const folder = await temporaryFolder(t)
  const newest = () => newestState(folder, 'x').then((path) => path && basename(path))
  const write = (file: string, at: number, of: TrainingState) => writeState(join(folder, file), of, { name: 'x', writtenAt: at })
  assert.equal(await newest(), undefined)
  await writeOld(join(folder, 'x-step00000900-state.safetensors'), {}, state(900, 1, 50))
  await writeOld(join(folder, 'x-000002-state.safetensors'), {}, state(20, 2, 60))
  await writeOld(join(folder, 'x-step00000010-state.safetensors'), {}, state(10, 2, 60))
  await write('xy-step00000010.state', 900, state(10, 3, 70))
  await write('x-other.state', 900, state(10, 3, 80))
  assert.equal(await newest(), 'x-000002-state.safetensors')
  await write('x.state', 100, state(5, 1, 50))
  assert.equal(await newest(), 'x.state')
  assert.ok(timeToWrite(await listStates(folder, 'x')) > 1.7e9)
  await write('x-000001.state', 1e11, state(3, 1, 50))
  // A clock that was wrong once does not make later states the older ones.
  assert.ok(timeToWrite(await listStates(folder, 'x')) > 1e11)
  assert.equal(await newest(), 'x-000001.state')
  // The last state of the run `x-000002`, whose name is also that of epoch 2 of `x`.
  await writeState(join(folder, 'x-000002.state'), state(3, 4, 50), { name: 'x-000002', writtenAt: 2e11 })
  assert.equal(await newest(), 'x-000001.state')
  assert.equal(await newestState(folder, 'x-000002'), join(folder, 'x-000002.state'))
  await writeFile(join(folder, 'x-step00000040.state'), 'half')
  await assert.rejects(newest(), { code: 'STATE_INVALID' })
})

test("of a run's states the two written last stay; other runs' and damaged ones are not touched", async (t) => {
  const folder = await temporaryFolder(t)
  await writeOld(join(folder, 'x-step00000050-state.safetensors'), {}, state(50))
  for (const [step, at] of [
    [100, 300],
    [20, 301],
    [3, 302],
  ] as const)
    await writeState(join(folder, `x-step0000000${step}.state`), state(step), { name: 'x', writtenAt: at })
  await writeState(join(folder, 'x-000001.state'), state(1, 9, 200), { name: 'x', writtenAt: 200 })
  await writeFile(join(folder, 'x-000002.state'), 'half')
  await writeFile(join(folder, 'x-step000000003.safetensors'), '')
  await removeOldStates(await listStates(folder, 'x'), { sessionId: 1, startedAt: 100.5 }, join(folder, 'x-step00000003.state'))
  const left = ['x-000001.state', 'x-000002.state', 'x-step000000003.safetensors', 'x-step000000020.state', 'x-step00000003.state']
  assert.deepEqual((await readdir(folder)).sort(), left)
})

test('a state lies beside its checkpoint, with an extension that readers of LoRAs do not look for', () => {
  assert.equal(statePathOf('a.safetensors/x-000001.safetensors'), 'a.safetensors/x-000001.state')
})
