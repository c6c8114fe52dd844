import assert from 'node:assert/strict'
import { test } from 'node:test'
import { allFinite, isNumberType, narrow, toBfloat, toHalf, widen } from '../../../lib/files/floats.js'

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

const everyByte = Uint8Array.from({ length: 256 }, (_, i) => i)

test('F8_E5M2 is the upper half of an F16', () => {
  const halves = new Uint8Array(Uint16Array.from(everyByte, (byte) => byte << 8).buffer)
  assert.deepEqual(widen(everyByte, 'F8_E5M2'), widen(halves, 'F16'))
})

// As torch.float8_e4m3fn: no infinities, 448 the largest, 2⁻⁹ the smallest.
test('F8_E4M3 has all its numbers', () => {
  const values = widen(everyByte, 'F8_E4M3')
  const examples = {
    0: 0,
    1: 2 ** -9,
    7: 7 * 2 ** -9,
    8: 2 ** -6,
    56: 1,
    57: 1.125,
    126: 448,
    127: Number.NaN,
    128: -0,
    184: -1,
    254: -448,
  }
  for (const [byte, value] of Object.entries(examples)) assert.equal(values[Number(byte)], value, byte)
  for (let byte = 1; byte < 127; byte++) assert.ok(values[byte]! > values[byte - 1]! && values[128 + byte] === -values[byte]!)
  assert.ok(Number.isNaN(values[255]))
})

test('doubles and whole numbers become the nearest f32, at any address', () => {
  const shifted = (data: ArrayBufferView) => {
    const bytes = new Uint8Array(data.byteLength + 1)
    bytes.set(new Uint8Array(data.buffer), 1)
    return bytes.subarray(1)
  }
  assert.deepEqual(widen(shifted(Float64Array.of(0.1, -3)), 'F64'), Float32Array.of(0.1, -3))
  assert.deepEqual(widen(shifted(BigInt64Array.of(16n, -(2n ** 40n))), 'I64'), Float32Array.of(16, -(2 ** 40)))
  assert.deepEqual(widen(shifted(Int32Array.of(8, -1)), 'I32'), Float32Array.of(8, -1))
  assert.deepEqual(
    ['F8_E8M0', 'BOOL', 'toString'].map((dtype) => isNumberType(dtype)),
    [false, false, false],
  )
})

test('one value that is not finite is found among many', () => {
  for (const value of [Number.NaN, Infinity, -Infinity]) assert.equal(allFinite(Float32Array.of(1, value, 3e38)), false)
  assert.equal(allFinite(Float32Array.of(1, -3e38, 3e38)), true)
  assert.equal(allFinite(new Float32Array(0)), true)
})
