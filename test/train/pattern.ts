const constants = { offset: 2166136261, prime: 16777619, golden: 2654435761, first: 0x85ebca6b, second: 0xc2b2ae35 }

/** Uniform numbers of mean 0 and the given standard deviation, made from a name: the twin of `scripts/goldens/pattern.py`, to the bit. */
export function pattern(name: string, count: number, deviation = 1): Float32Array {
  let key = constants.offset
  for (const byte of new TextEncoder().encode(name)) key = Math.imul(key ^ byte, constants.prime)
  const scale = Math.sqrt(3) * deviation
  const values = new Float32Array(count)
  for (let i = 0; i < count; i++) {
    let x = (Math.imul(i, constants.golden) + key) | 0
    x = Math.imul(x ^ (x >>> 16), constants.first)
    x = Math.imul(x ^ (x >>> 13), constants.second)
    x = (x ^ (x >>> 16)) >>> 0
    values[i] = (((x + 0.5) / 4294967296) * 2 - 1) * scale
  }
  return values
}
