/** Converts the float types of weight files: F16 and BF16 widen to f32 exactly, f32 rounds to the nearest, ties to even. */
export type FloatType = 'F32' | 'F16' | 'BF16'

// A float and its bits share this memory.
const number = new Float32Array(1)
const bits = new Uint32Array(number.buffer)
let halves: Float32Array | undefined

/** Computes all 65,536 values of IEEE binary16: a sign, 5 exponent bits (bias 15), 10 mantissa bits. */
function halfTable(): Float32Array {
  const table = new Float32Array(0x10000)
  for (let half = 0; half < 0x10000; half++) {
    const exponent = (half >> 10) & 0x1f
    const mantissa = half & 0x3ff
    let magnitude = (1 + mantissa / 1024) * 2 ** (exponent - 15)
    if (exponent === 0) magnitude = mantissa * 2 ** -24
    if (exponent === 31) magnitude = mantissa ? Number.NaN : Infinity
    table[half] = half & 0x8000 ? -magnitude : magnitude
  }
  return table
}

/** Returns the bits of the nearest half; overflow becomes an infinity. */
export function toHalf(value: number): number {
  number[0] = value
  const x = bits[0] as number
  const sign = (x >>> 16) & 0x8000
  const magnitude = x & 0x7fffffff
  if (magnitude > 0x7f800000) return sign | 0x7e00
  // Values of 65,520 and more round to infinity.
  if (magnitude >= 0x477ff000) return sign | 0x7c00
  if (magnitude < 0x38800000) {
    // A subnormal half: adding 0.5 leaves the multiple of 2⁻²⁴ in the low bits, rounded.
    bits[0] = magnitude
    number[0] = (number[0] as number) + 0.5
    return sign | ((bits[0] as number) - 0x3f000000)
  }
  const odd = (magnitude >>> 13) & 1
  return sign | ((magnitude - 0x38000000 + 0xfff + odd) >>> 13)
}

/** Returns the bits of the nearest bfloat16. */
export function toBfloat(value: number): number {
  number[0] = value
  const x = bits[0] as number
  if ((x & 0x7fffffff) > 0x7f800000) return (x >>> 16) | 0x40
  return (x + 0x7fff + ((x >>> 16) & 1)) >>> 16
}

/** Converts little-endian bytes of `type` to f32. For F32 the result shares memory with the bytes if they are aligned. */
export function widen(bytes: Uint8Array, type: FloatType): Float32Array {
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice()
  if (type === 'F32') return new Float32Array(aligned.buffer, aligned.byteOffset, aligned.byteLength / 4)
  const words = new Uint16Array(aligned.buffer, aligned.byteOffset, aligned.byteLength / 2)
  const data = new Float32Array(words.length)
  if (type === 'BF16') {
    const wide = new Uint32Array(data.buffer)
    for (let i = 0; i < words.length; i++) wide[i] = (words[i] as number) << 16
  } else {
    halves ??= halfTable()
    for (let i = 0; i < words.length; i++) data[i] = halves[words[i] as number] as number
  }
  return data
}

/**
 * Converts f32 to little-endian bytes of `type`. For F32 they share memory with `data`; else they are put into `room`, or into new memory where
 * that is missing or too short.
 */
export function narrow(data: Float32Array, type: FloatType, room?: Uint16Array): Uint8Array {
  if (type === 'F32') return new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  const words = room && room.length >= data.length ? room.subarray(0, data.length) : new Uint16Array(data.length)
  const convert = type === 'F16' ? toHalf : toBfloat
  for (let i = 0; i < data.length; i++) words[i] = convert(data[i] as number)
  return new Uint8Array(words.buffer, words.byteOffset, words.byteLength)
}

/** Returns `type` if it holds a number to the bit of its f32, else F32. */
export function typeHolding(value: number, type: FloatType): FloatType {
  return widen(narrow(Float32Array.of(value), type), type)[0] === Math.fround(value) ? type : 'F32'
}
