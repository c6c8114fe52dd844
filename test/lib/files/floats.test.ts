import assert from 'node:assert/strict'
import { test } from 'node:test'
import { narrow, toBfloat, toHalf, widen } from '../../../lib/files/floats.js'

const everyWord = new Uint8Array(Uint16Array.from({ length: 0x10000 }, (_, i) => i).buffer)

for (const [type, convert] of [
  ['F16', toHalf],
  ['BF16', toBfloat],
] as const) {
  const values = widen(everyWord, type)

  test(`every ${type} survives widening and narrowing`, () => {
    values.forEach((value, word) => {
      if (Number.isNaN(value)) assert.ok(Number.isNaN(widen(narrow(Float32Array.of(value), type), type)[0]))
      else assert.equal(convert(value), word)
    })
  })

  test(`between two ${type} the nearer is taken, and the even one halfway`, () => {
    const last = type === 'F16' ? 0x7bff : 0x7f7f
    for (let word = 0; word < last; word++) {
      const low = values[word] as number
      const high = values[word + 1] as number
      const middle = (low + high) / 2
      // The step of f32 around the middle, so that the neighbours are other f32 values.
      const step = Math.max(2 ** -149, 2 ** (Math.floor(Math.log2(middle)) - 23))
      const even = word % 2 === 0 ? word : word + 1
      assert.equal(convert(Math.fround(middle)), even)
      assert.equal(convert(Math.fround(middle - step)), word)
      assert.equal(convert(Math.fround(middle + step)), word + 1)
      assert.equal(convert(Math.fround(-middle)), even | 0x8000)
    }
  })
}

test('what is too large becomes an infinity, what is too small zero', () => {
  assert.equal(toHalf(65519.99609375), 0x7bff)
  assert.equal(toHalf(65520), 0x7c00)
  assert.equal(toHalf(-1e30), 0xfc00)
  assert.equal(toHalf(2 ** -25), 0)
  assert.equal(toHalf(-(2 ** -26)), 0x8000)
  assert.equal(toBfloat(3.4028234663852886e38), 0x7f80)
  assert.equal(toBfloat(Number.NEGATIVE_INFINITY), 0xff80)
})

test('bytes at an odd address are read', () => {
  const bytes = new Uint8Array(9)
  bytes.set(new Uint8Array(Float32Array.of(1.5, -2).buffer), 1)
  assert.deepEqual(widen(bytes.subarray(1), 'F32'), Float32Array.of(1.5, -2))
})
