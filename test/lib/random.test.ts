import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { integer, normal, type Place, philox, shuffle, uniform } from '../../lib/random.js'

const place: Place = { seed: 7, stream: 'noise', step: 3, index: 1 }

test("Philox gives Random123's known answers", () => {
  const all = 0xffffffff
  assert.deepEqual(philox([0, 0, 0, 0], [0, 0]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8])
  assert.deepEqual(philox([all, all, all, all], [all, all]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd])
  assert.deepEqual(
    philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
    [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
  )
})

test('numbers depend on the place alone, and more of them begin with the same', () => {
  const many = normal(place, 100)
  assert.deepEqual(normal(place, 100), many)
  assert.deepEqual(normal(place, 33), many.slice(0, 33))
  assert.deepEqual(uniform(place, 5), uniform(place, 9).slice(0, 5))
})

test('every part of a place matters', () => {
  const others: Place[] = [
    { ...place, seed: 8 },
    { ...place, seed: 2 ** 32 - 1 },
    { ...place, stream: 'latents' },
    { ...place, step: 4 },
    { ...place, index: 2 },
    { ...place, step: 1, index: 3 },
  ]
  const drawn = [place, ...others].map((each) => uniform(each, 4).join())
  assert.equal(new Set(drawn).size, drawn.length)
})

test('uniform numbers are uniform, and neither 0 nor 1', () => {
  const drawn = uniform(place, 100_000)
  const tenths = new Array<number>(10).fill(0)
  for (const value of drawn) {
    assert.ok(value > 0 && value < 1)
    tenths[Math.floor(value * 10)]! += 1
  }
  for (const count of tenths) assert.ok(Math.abs(count - 10_000) < 400, `${tenths}`)
})

test('normal numbers have the moments of a standard normal, and neighbours are independent', () => {
  const count = 200_000
  const drawn = normal(place, count)
  const mean = (value: (x: number, i: number) => number) => drawn.reduce((sum, x, i) => sum + value(x, i), 0) / count
  const error = 5 / Math.sqrt(count)
  assert.ok(Math.abs(mean((x) => x)) < error)
  assert.ok(Math.abs(mean((x) => x ** 2) - 1) < error * Math.sqrt(2))
  assert.ok(Math.abs(mean((x) => x ** 3)) < error * Math.sqrt(15))
  assert.ok(Math.abs(mean((x) => x ** 4) - 3) < error * Math.sqrt(96))
  for (const distance of [1, 2, 4]) assert.ok(Math.abs(mean((x, i) => x * (drawn[i + distance] ?? 0))) < error)
})

test('whole numbers reach both ends and nothing beyond', () => {
  const drawn = Array.from({ length: 20_000 }, (_, step) => integer({ ...place, step }, 1000))
  assert.equal(Math.min(...drawn), 0)
  assert.equal(Math.max(...drawn), 999)
  assert.ok(Math.abs(drawn.reduce((sum, value) => sum + value, 0) / drawn.length - 499.5) < 10)
})

/** 0 … `length` − 1, shuffled. */
async function permutation(place: Place, length: number): Promise<Uint32Array> {
  const values = Uint32Array.from({ length }, (_, i) => i)
  await shuffle(values, place)
  return values
}

test('a permutation holds each number once', async () => {
  await fc.assert(
    fc.asyncProperty(fc.nat(300), fc.nat(), async (length, step) => {
      const order = await permutation({ ...place, step }, length)
      assert.deepEqual(
        [...order].sort((a, b) => a - b),
        [...Array(length).keys()],
      )
    }),
  )
})

test('shuffling in pieces is shuffling at once', async () => {
  for (const length of [1, 4095, 4096, 4097, 10_000]) {
    const expected = Array.from({ length }, (_, i) => i)
    const drawn = uniform(place, length)
    for (let i = length - 1; i > 0; i--) {
      const j = Math.floor(drawn[i]! * (i + 1))
      ;[expected[i], expected[j]] = [expected[j]!, expected[i]!]
    }
    assert.deepEqual([...(await permutation(place, length))], expected)
  }
})

test('every order is as likely as any other', async () => {
  const counts = new Map<string, number>()
  for (let step = 0; step < 12_000; step++) {
    const order = (await permutation({ ...place, step }, 3)).join('')
    counts.set(order, (counts.get(order) ?? 0) + 1)
  }
  assert.equal(counts.size, 6)
  for (const count of counts.values()) assert.ok(Math.abs(count - 2000) < 200, JSON.stringify([...counts]))
})
