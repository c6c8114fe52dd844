/** Converts the number types of weight files: f32 rounds to the nearest of 16 bits, ties to even, and every type widens to f32. */
export type FloatType = 'F32' | 'F16' | 'BF16'

/** Floats of 8 bits: F8_E4M3 has no infinities, F8_E5M2 is the upper half of an F16. */
type SmallFloat = 'F16' | 'F8_E4M3' | 'F8_E5M2'

// A float and its bits share this memory.
const number = new Float32Array(1)
const bits = new Uint32Array(number.buffer)

/** By type: bits of the exponent and of the mantissa, and whether all ones alone are no number, as there are no infinities. */
const LAYOUTS: Record<SmallFloat, [exponent: number, mantissa: number, finite: boolean]> = {
  F16: [5, 10, false],
  F8_E4M3: [4, 3, true],
  F8_E5M2: [5, 2, false],
}
const tables = new Map<SmallFloat, Float32Array>()

/** Computes all values of a type: a sign, an exponent with a bias of half its range, a mantissa. */
function tableOf(type: SmallFloat): Float32Array {
  const known = tables.get(type)
  if (known) return known
  const [exponentBits, mantissaBits, finite] = LAYOUTS[type]
  const [top, ones, bias] = [2 ** exponentBits - 1, 2 ** mantissaBits - 1, 2 ** (exponentBits - 1) - 1]
  const half = 2 ** (exponentBits + mantissaBits)
  const table = new Float32Array(2 * half)
  for (let word = 0; word < half; word++) {
    const exponent = word >> mantissaBits
    const mantissa = word & ones
    const fraction = mantissa / 2 ** mantissaBits
    let magnitude = exponent === 0 ? fraction * 2 ** (1 - bias) : (1 + fraction) * 2 ** (exponent - bias)
    if (exponent === top && !finite) magnitude = mantissa ? Number.NaN : Infinity
    if (exponent === top && finite && mantissa === ones) magnitude = Number.NaN
    table[word] = magnitude
    table[half + word] = -magnitude
  }
  tables.set(type, table)
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

/** Views bytes as elements of a type; a copy if they are not aligned. */
function elements<View>(
  bytes: Uint8Array,
  View: { new (buffer: ArrayBufferLike, offset: number, length: number): View; BYTES_PER_ELEMENT: number },
): View {
  const size = View.BYTES_PER_ELEMENT
  const { buffer, byteOffset, byteLength } = bytes.byteOffset % size === 0 ? bytes : bytes.slice()
  return new View(buffer, byteOffset, byteLength / size)
}

function widenBfloat(bytes: Uint8Array): Float32Array {
  const words = elements(bytes, Uint16Array)
  const data = new Float32Array(words.length)
  const wide = new Uint32Array(data.buffer)
  for (let i = 0; i < words.length; i++) wide[i] = (words[i] as number) << 16
  return data
}

function look(words: Uint8Array | Uint16Array, table: Float32Array): Float32Array {
  const data = new Float32Array(words.length)
  for (let i = 0; i < words.length; i++) data[i] = table[words[i] as number] as number
  return data
}

/** How each type becomes f32: floats of up to 32 bits exactly, all else rounded to the nearest. */
const WIDEN = {
  F32: (bytes: Uint8Array) => elements(bytes, Float32Array),
  F16: (bytes: Uint8Array) => look(elements(bytes, Uint16Array), tableOf('F16')),
  BF16: widenBfloat,
  F8_E4M3: (bytes: Uint8Array) => look(bytes, tableOf('F8_E4M3')),
  F8_E5M2: (bytes: Uint8Array) => look(bytes, tableOf('F8_E5M2')),
  F64: (bytes: Uint8Array) => Float32Array.from(elements(bytes, Float64Array)),
  I64: (bytes: Uint8Array) => Float32Array.from(elements(bytes, BigInt64Array), Number),
  I32: (bytes: Uint8Array) => Float32Array.from(elements(bytes, Int32Array)),
}

/** The types that can be read as numbers. */
export type NumberType = keyof typeof WIDEN

export const NUMBER_TYPES = Object.keys(WIDEN)

export function isNumberType(dtype: string): dtype is NumberType {
  return Object.hasOwn(WIDEN, dtype)
}

/** Converts little-endian bytes of `type` to f32. For F32 the result shares memory with the bytes if they are aligned. */
export function widen(bytes: Uint8Array, type: NumberType): Float32Array {
  return WIDEN[type](bytes)
}

/** Whether all are finite. */
export function allFinite(data: Float32Array): boolean {
  // Zero times what is not finite is no number, and stays none.
  let sum = 0
  for (let i = 0; i < data.length; i++) sum += (data[i] as number) * 0
  return sum === 0
}

/**
 * Converts f32 to little-endian bytes of `type`. For F32 they share memory with `data`; else they are put into `words`, of the same length.
 */
export function narrow(data: Float32Array, type: FloatType, words = new Uint16Array(data.length)): Uint8Array {
  if (type === 'F32') return new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  const convert = type === 'F16' ? toHalf : toBfloat
  for (let i = 0; i < data.length; i++) words[i] = convert(data[i] as number)
  return new Uint8Array(words.buffer, words.byteOffset, words.byteLength)
}

/** Returns `type` if it holds a number to the bit of its f32, else F32. */
export function typeHolding(value: number, type: FloatType): FloatType {
  return widen(narrow(Float32Array.of(value), type), type)[0] === Math.fround(value) ? type : 'F32'
}
