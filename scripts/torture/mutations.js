// Damage: to bytes, to texts, to JSON, and to the header of a safetensors file.

/** Values that no reader expects. Those that JSON cannot hold are written as their texts. */
const VALUES = [
  ...[null, true, false, 0, -0, -1, 1, 3, 0.5, 1e-9, 7, 64, 65535, 2 ** 31, 2 ** 32, 2 ** 32 + 8, 2 ** 53, 2 ** 64, 1e308, -1e308],
  ...['', ' ', '0', '4', 'null', 'NaN', 'ä', '\0', '\ud800', '__proto__', '../../x', 'x'.repeat(100_000), '9'.repeat(400)],
  ...[[], {}, [[]], [null], [0], [1, 2, 3], ['x'], { a: 1 }, { length: 2 ** 32 }, Array(5000).fill(1), { toString: 1 }],
]
/** Numbers at which something narrows, overflows, divides or loops. */
const NUMBERS = [0, -1, 0.5, 2 ** 16, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 2 ** 32 + 1, 2 ** 33, 2 ** 53, 2 ** 63, 1e15, -(2 ** 31)]
const KEYS = ['__proto__', 'constructor', 'toString', '', 'step', 'Step', 'x'.repeat(1000), '0']

/** Arrays within arrays, deeper than a stack. */
const deep = (depth) => `${'['.repeat(depth)}${']'.repeat(depth)}`

const isNode = (value) => typeof value === 'object' && value !== null

/** All places in a JSON value: an object or array, and a key of it. */
function places(value, found = []) {
  if (!isNode(value)) return found
  for (const key of Object.keys(value)) {
    found.push([value, key])
    places(value[key], found)
  }
  return found
}

/** Another value of the same kind: a number near by, a text with a letter changed. */
function neighbour(value, random) {
  if (typeof value === 'number' && random.chance(0.6)) return random.pick(NUMBERS)
  if (typeof value === 'number')
    return random.pick([value + 1, value - 1, -value, value * 2, value / 2, value * 1e9, String(value), [value]])
  if (typeof value === 'string')
    return random.pick([value.slice(1), value + value, value.toUpperCase(), value.replace(/.$/, 'é'), Number(value)])
  if (typeof value === 'boolean') return random.pick([!value, String(value), Number(value)])
  return random.pick(VALUES)
}

/** Changes a JSON value at a random place, and returns it. */
export function damageJson(json, random) {
  const value = structuredClone(json)
  const found = places(value)
  // What is null says nothing, and most readers pass over it.
  const told = found.filter(([node, key]) => node[key] !== null)
  if (told.length === 0 || random.chance(0.03)) return random.pick(VALUES)
  const numbers = told.filter(([node, key]) => typeof node[key] === 'number')
  const chosen = random.chance(0.4) && numbers.length > 0 ? numbers : random.chance(0.9) ? told : found
  const [node, key] = random.pick(chosen)
  if (chosen === numbers) {
    node[key] = neighbour(node[key], random)
    return value
  }
  switch (random.below(6)) {
    case 0:
      if (Array.isArray(node)) node.splice(Number(key), 1)
      else delete node[key]
      break
    case 1:
      if (Array.isArray(node)) node.splice(Number(key), 0, random.pick(VALUES))
      else node[random.pick(KEYS)] = random.pick(VALUES)
      break
    case 2: {
      const [other, otherKey] = random.pick(found)
      node[key] = structuredClone(other[otherKey])
      break
    }
    case 3:
      node[key] = neighbour(node[key], random)
      break
    default:
      node[key] = random.pick(VALUES)
  }
  return value
}

/** Changes the text of a JSON value: mostly the value, now and then the text itself. */
export function damageJsonText(text, random) {
  if (random.chance(0.05)) return deep(random.pick([10, 1000, 100_000]))
  if (random.chance(0.15)) return damageBytes(Buffer.from(text), random)
  const damaged = JSON.stringify(damageJson(JSON.parse(text), random)) ?? 'undefined'
  return random.chance(0.1) ? damaged.replace(/\d+/, '1e999') : damaged
}

/** Changes bytes: flips, cuts, repeats, overwrites. */
export function damageBytes(bytes, random) {
  const size = bytes.length
  const at = random.below(size)
  const some = 1 + random.below(Math.min(64, size - at))
  const copy = Buffer.from(bytes)
  switch (random.below(8)) {
    case 0:
      return copy.subarray(0, at)
    case 1:
      return Buffer.concat([copy, copy.subarray(0, some)])
    case 2:
      return Buffer.concat([copy.subarray(0, at), copy.subarray(at + some)])
    case 3:
      return copy.fill(random.pick([0, 255]), at, at + some)
    case 4:
      for (let i = 0; i < 20; i++) copy[random.below(size)] = random.below(256)
      return copy
    case 5:
      return random.pick([
        Buffer.alloc(0),
        Buffer.from('<!DOCTYPE html>'),
        Buffer.from('version https://git-lfs.github.com/spec/v1\n'),
        Buffer.alloc(size),
      ])
    default:
      copy[random.chance(0.5) ? at : random.below(Math.min(size, 200))] ^= 1 << random.below(8)
      return copy
  }
}

/** Splits a safetensors file into its header and the bytes after it. */
export function splitSafetensors(bytes) {
  const end = 8 + Number(bytes.readBigUInt64LE())
  return { header: JSON.parse(bytes.subarray(8, end).toString()), data: bytes.subarray(end) }
}

/** Joins a header, JSON or its text, and data. `claimed`: the header's length as the file says it. */
export function joinSafetensors(header, data, claimed) {
  const text = Buffer.from(typeof header === 'string' || Buffer.isBuffer(header) ? header : JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(claimed ?? text.length))
  return Buffer.concat([length, text, data])
}

/** Changes a metadata text that is JSON itself. */
function damageMetadata(header, random) {
  const metadata = { ...header.__metadata__ }
  const keys = Object.keys(metadata).filter((key) => /^[{[]/.test(metadata[key]))
  if (keys.length === 0) return { ...header, __metadata__: damageJson(metadata, random) }
  const key = random.pick(keys)
  return { ...header, __metadata__: { ...metadata, [key]: String(damageJsonText(metadata[key], random)) } }
}

/** Changes a safetensors file: its bytes, its header, a text in its metadata, the header's length, or one number of its data. */
export function damageSafetensors(bytes, random) {
  const { header, data } = splitSafetensors(bytes)
  switch (random.below(6)) {
    case 0:
      return damageBytes(bytes, random)
    case 1:
      return joinSafetensors(damageMetadata(header, random), data)
    case 2:
      return joinSafetensors(header, data, random.pick([0, 1, 2, 2 ** 20, 2n ** 63n, 2n ** 64n - 1n, bytes.length - 8, bytes.length]))
    case 3: {
      const copy = Buffer.from(data)
      // NaN, infinity and the largest of every type of float.
      const pattern = random.pick([[0xff], [0x00, 0x00, 0x80, 0x7f], [0xff, 0xff, 0x7f, 0x7f]])
      const at = 4 * random.below(copy.length / 4)
      for (let i = 0; i < 4; i++) copy[at + i] = pattern[i % pattern.length]
      return joinSafetensors(header, copy)
    }
    default:
      return joinSafetensors(damageJsonText(JSON.stringify(header), random), data)
  }
}
