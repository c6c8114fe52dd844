import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import type { ProfileEvent, TrainEvent } from '../../../lib/events.js'
import { place, run, tensors } from '../../fixtures/training.js'

interface TraceEvent {
  ph: string
  name: string
  ts: number
  dur: number
  args: { layer?: string; shape?: string; flops?: number; bytes?: number }
}

const sum = (values: number[]) => values.reduce((total, value) => total + value, 0)
const near = (a: number, b: number) => Math.abs(a - b) <= 1e-6 * Math.abs(b)

test('a profiled training ends in the same LoRA; its trace adds up to the step', async (t) => {
  const given = { ...(await place(t)), device: 'cpu' as const, steps: 4, gradientAccumulation: 2 }
  const path = join(given.folder, 'new', 'trace.json')
  const events: TrainEvent[] = []
  const profiled = await run({ ...given, profile: path }, (event) => void events.push(event))
  const plain = await run({ ...given, output: join(given.folder, 'plain') })
  assert.deepEqual(await tensors(profiled.path), await tensors(plain.path))

  const [told, ...more] = events.filter((event): event is ProfileEvent => event.type === 'profile')
  assert.ok(told && more.length === 0 && told.step === 3 && told.path === path)
  const { traceEvents } = JSON.parse(await readFile(path, 'utf8')) as { traceEvents: TraceEvent[] }
  const complete = traceEvents.filter(({ ph }) => ph === 'X')
  assert.ok(near(sum(complete.map(({ dur }) => dur)), 1e6 * told.seconds))
  assert.ok(complete.every(({ ts, dur }, i) => dur >= 0 && (i === 0 || ts >= complete[i - 1]!.ts)))
  assert.equal(complete.filter(({ name }) => name === 'update').length, 1)
  assert.equal(complete.filter(({ name }) => name === 'mse_loss').length, 2, 'both batches')
  const product = complete.find(({ name, args }) => name === 'mat_mul' && args.layer)!
  assert.ok(product.args.flops! > 0 && product.args.bytes! > 0 && / × /.test(product.args.shape!))
  assert.ok(near(sum(told.ops.map(({ share }) => share)), 1))
  assert.equal(sum(told.ops.map(({ count }) => count)), complete.length)
  assert.ok(told.layers.length === 10 && told.layers.every(({ seconds }, i) => i === 0 || seconds <= told.layers[i - 1]!.seconds))
  assert.ok(told.ops.every(({ name, ofPeak }) => (name === 'update' ? ofPeak === 0 : ofPeak > 0)))
})

test('of a short training the last step is profiled; a profile that cannot be written is a warning', async (t) => {
  const given = { ...(await place(t)), device: 'cpu' as const, steps: 1 }
  const events: TrainEvent[] = []
  await run({ ...given, profile: join(given.folder, 'a.json') }, (event) => void events.push(event))
  assert.equal(events.find((event) => event.type === 'profile')?.step, 1)
  await run({ ...given, profile: '/proc/nothing/a.json' }, (event) => void events.push(event))
  const warning = events.find((event) => event.type === 'warning' && event.code === 'NO_PROFILE')
  assert.match(
    (warning as { message: string }).message,
    /^The profile is not written: Expected to be able to write \/proc\/nothing\/a\.json/,
  )
})
