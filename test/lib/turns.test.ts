import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import fc from 'fast-check'
import { mapAtOnce, sortInTurns, turns } from '../../lib/turns.js'

test('long work lets timers and signals have their turn', async () => {
  const turn = turns(AbortSignal.timeout(30))
  const work = async () => {
    for (;;) await turn()
  }
  await assert.rejects(work(), { name: 'TimeoutError' })
})

test('texts are sorted by code units, however many', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.string({ unit: 'grapheme' })), async (texts) => {
      assert.deepEqual(await sortInTurns([...texts]), [...texts].sort())
    }),
  )
  const many = Array.from({ length: 10_000 }, (_, i) => `${(i * 7919) % 9973}`)
  assert.deepEqual(await sortInTurns([...many]), [...many].sort())
})

test('work is done on several items at once, and its results are in order', async () => {
  let [running, most] = [0, 0]
  const items = Array.from({ length: 20 }, (_, i) => i)
  const results = await mapAtOnce(items, 4, async (item) => {
    running += 1
    most = Math.max(most, running)
    await setTimeout((item * 7) % 5)
    running -= 1
    return item * 2
  })
  assert.deepEqual(
    results,
    items.map((item) => item * 2),
  )
  assert.equal(most, 4)
  assert.deepEqual(await mapAtOnce([], 4, async () => 1), [])
})

test('the first failure, or a signal, stops what has not begun', async () => {
  const begun: number[] = []
  const items = Array.from({ length: 20 }, (_, i) => i)
  const work = async (item: number) => {
    begun.push(item)
    await setTimeout(1)
    if (item === 3) throw new Error('three')
  }
  await assert.rejects(mapAtOnce(items, 2, work), /three/)
  await setTimeout(20)
  assert.ok(begun.length <= 5, begun.join())
  await assert.rejects(mapAtOnce(items, 2, work, AbortSignal.abort()), { name: 'AbortError' })
  assert.ok(begun.length <= 5)
})

test('items that need much memory are done with few others, or alone', async () => {
  const sizes = [5, 1, 1, 30, 4, 4, 4, 1, 10, 1]
  let [held, most, done] = [0, 0, 0]
  const work = async (size: number) => {
    held += Math.min(size, 10)
    most = Math.max(most, held)
    await setTimeout(size % 4)
    held -= Math.min(size, 10)
    done += 1
    return size
  }
  assert.deepEqual(await mapAtOnce(sizes, 4, work, undefined, { most: 10, of: async (size) => size }), sizes)
  assert.deepEqual([held, done], [0, 10])
  assert.ok(most <= 10 && most > 5, `${most}`)
  const begun: number[] = []
  const failing = async (size: number) => {
    begun.push(size)
    await setTimeout(1)
    throw new Error('one')
  }
  await assert.rejects(mapAtOnce([10, 9, 8], 3, failing, undefined, { most: 10, of: (size) => size }), /one/)
  await setTimeout(10)
  assert.deepEqual(begun, [10])
})
