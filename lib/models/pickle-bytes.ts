/** The bytes of pickles, read one after the other: what follows their opcodes, as numbers and texts. */
import { type LorafuseError, shown } from '../errors.js'
import { isCount } from '../files/json.js'
import { OPAQUE } from './torch-objects.js'

/** Longer texts, such as sources, are not decoded; longer lines are no number; longer integers are not shapes. */
const MOST_TEXT = 2 ** 16
const MOST_LINE = 2 ** 16
const MOST_INTEGER_BYTES = 16

/** `invalid` makes the error of damaged bytes; `ended` that of bytes which are cut short. */
export class PickleBytes {
  /** Where the next byte is. */
  at = 0
  private readonly view: DataView

  constructor(
    private readonly bytes: Uint8Array,
    private readonly invalid: (problem: string) => LorafuseError,
    private readonly ended: () => Error,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  /** Passes over bytes, and returns where they begin. */
  take(length: number): number {
    const begin = this.at
    if (length > this.bytes.length - begin) throw this.ended()
    this.at += length
    return begin
  }

  byte(): number {
    return this.bytes[this.take(1)] as number
  }

  /** An unsigned number of 1, 2, 4 or 8 bytes. */
  unsigned(width: number): number {
    const begin = this.take(width)
    if (width === 1) return this.view.getUint8(begin)
    if (width === 2) return this.view.getUint16(begin, true)
    return width === 4 ? this.view.getUint32(begin, true) : Number(this.view.getBigUint64(begin, true))
  }

  /** A signed number of 4 bytes. */
  signed(): number {
    return this.view.getInt32(this.take(4), true)
  }

  /** A float of 8 bytes, the first byte first. */
  float(): number {
    return this.view.getFloat64(this.take(8), false)
  }

  /** A little-endian integer in two's complement. */
  integer(length: number): unknown {
    const begin = this.take(length)
    if (length > MOST_INTEGER_BYTES) return OPAQUE
    let value = 0n
    for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(this.bytes[begin + i] as number)
    value = BigInt.asIntN(8 * length, value)
    return Number.isSafeInteger(Number(value)) ? Number(value) : value
  }

  text(length: number): unknown {
    const begin = this.take(length)
    if (length > MOST_TEXT) return OPAQUE
    return Buffer.from(this.bytes.buffer, this.bytes.byteOffset + begin, length).toString('utf8')
  }

  line(): string {
    const end = this.bytes.indexOf(0x0a, this.at)
    if (end < 0) throw this.ended()
    const length = end - this.at
    if (length > MOST_LINE) throw this.invalid(`Expected lines of at most ${MOST_LINE} bytes but one has ${length}`)
    const text = this.text(length) as string
    this.at = end + 1
    return text
  }

  /** A line that is a place in the memo. */
  index(): number {
    const line = this.line()
    const index = Number(line)
    if (!isCount(index)) throw this.invalid(`Expected a place in the pickle's memo but received ${shown(line)}`)
    return index
  }
}
