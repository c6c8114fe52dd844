/**
 * A machine for the pickles in PyTorch's files (python/cpython:Lib/pickletools.py) that builds dicts, lists, strings, numbers and the places
 * of tensors, and nothing else. A class or function is no more than its name here: what it would make is `OPAQUE`, and nothing is called.
 * Work and memory are bounded by the bytes of the pickle, whatever they say.
 */
import { type LorafuseError, shown } from '../errors.js'
import { isCount } from '../files/json.js'
import { type Turn, turns } from '../turns.js'
import { Dict, Global, OPAQUE, resultOf, Storage, storageOf } from './torch-objects.js'

/** Values on the stack and in the memo, lists and dicts: more than any checkpoint with the states of its optimizer has. */
const MOST_VALUES = 2 ** 20
const MOST_CONTAINERS = 2 ** 19
/** Longer texts, such as sources, are not decoded; longer lines are no number; longer integers are not shapes. */
const MOST_TEXT = 2 ** 16
const MOST_LINE = 2 ** 16
const MOST_INTEGER_BYTES = 16
/** Opcodes between two turns. */
const PIECE = 4096

/** How opcodes read the bytes behind them: as a length of so many bytes, of what follows. */
const LENGTHS: Record<string, number> = { U: 1, T: 4, C: 1, B: 4, X: 4, '\x8c': 1, '\x8d': 8, '\x8e': 8, '\x96': 8, '\x8a': 1, '\x8b': 4 }

/** Reads pickles one after the other from `bytes`. `invalid` makes the error of a damaged one; `ended` that of one cut short. */
export class Unpickler {
  private stack: unknown[] = []
  private marks: number[] = []
  private memo = new Map<number, unknown>()
  private containers = 0
  /** Those that the last pickle named, by their keys. */
  storages = new Map<string, Storage>()
  private readonly view: DataView

  constructor(
    private readonly bytes: Uint8Array,
    private readonly invalid: (problem: string) => LorafuseError,
    private readonly ended: () => Error = () => invalid('Expected a whole pickle but it ends early'),
    /** Where the next pickle begins. */
    public at = 0,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  /** Reads the next pickle. Throws what `invalid` and `ended` make. */
  async load(turn: Turn = turns()): Promise<unknown> {
    this.stack = []
    this.marks = []
    this.memo = new Map()
    this.storages = new Map()
    for (let count = 1; ; count++) {
      const opcode = String.fromCharCode(this.byte())
      if (opcode === '.') return this.pop()
      this.step(opcode)
      if (this.stack.length > MOST_VALUES || this.memo.size > MOST_VALUES || this.marks.length > MOST_VALUES) {
        throw this.invalid(`Expected a pickle of at most ${MOST_VALUES} values but it has more`)
      }
      if (count % PIECE === 0) await turn()
    }
  }

  private take(length: number): number {
    const begin = this.at
    if (length > this.bytes.length - begin) throw this.ended()
    this.at += length
    return begin
  }

  private byte(): number {
    return this.bytes[this.take(1)] as number
  }

  /** An unsigned number of 1, 4 or 8 bytes. */
  private unsigned(width: number): number {
    const begin = this.take(width)
    if (width === 1) return this.view.getUint8(begin)
    return width === 4 ? this.view.getUint32(begin, true) : Number(this.view.getBigUint64(begin, true))
  }

  private line(): string {
    const end = this.bytes.indexOf(0x0a, this.at)
    if (end < 0) throw this.ended()
    if (end - this.at > MOST_LINE) throw this.invalid(`Expected lines of at most ${MOST_LINE} bytes but one has ${end - this.at}`)
    const text = this.text(this.at, end - this.at)
    this.at = end + 1
    return typeof text === 'string' ? text : ''
  }

  private text(begin: number, length: number): unknown {
    if (length > MOST_TEXT) return OPAQUE
    return Buffer.from(this.bytes.buffer, this.bytes.byteOffset + begin, length).toString('utf8')
  }

  private pop(): unknown {
    if (this.stack.length <= (this.marks.at(-1) ?? 0)) throw this.invalid('Expected a value on the stack of the pickle but it is empty')
    return this.stack.pop()
  }

  /** Returns what is behind the last mark. */
  private popMark(): unknown[] {
    const mark = this.marks.pop()
    if (mark === undefined) throw this.invalid('Expected a mark on the stack of the pickle but there is none')
    return this.stack.splice(mark)
  }

  private popMany(count: number): unknown[] {
    const values: unknown[] = []
    for (let i = 0; i < count; i++) values.unshift(this.pop())
    return values
  }

  private peek(): unknown {
    const top = this.pop()
    this.stack.push(top)
    return top
  }

  private contain<Value extends object>(value: Value): Value {
    this.containers += 1
    if (this.containers <= MOST_CONTAINERS) return value
    throw this.invalid(`Expected a pickle of at most ${MOST_CONTAINERS} lists and dicts but it has more`)
  }

  private remembered(index: number): unknown {
    if (this.memo.has(index)) return this.memo.get(index)
    throw this.invalid(`Expected a value in place ${index} of the pickle's memo but there is none`)
  }

  /** Puts keys and values, one after the other, into a dict; into anything else, nothing. */
  private fill(target: unknown, items: unknown[]): void {
    if (items.length % 2 === 1) throw this.invalid('Expected a value for each key of a dict in the pickle but one has none')
    if (!(target instanceof Dict)) return
    for (let i = 0; i < items.length; i += 2) target.set(items[i], items[i + 1])
  }

  private append(target: unknown, items: unknown[]): void {
    if (Array.isArray(target)) for (const item of items) target.push(item)
  }

  private step(opcode: string): void {
    const { stack } = this
    if (opcode in LENGTHS) {
      stack.push(this.counted(opcode, this.unsigned(LENGTHS[opcode] as number)))
      return
    }
    switch (opcode) {
      case '\x80': // PROTO
        this.take(1)
        return
      case '\x95': // FRAME
        this.take(8)
        return
      case '(':
        this.marks.push(stack.length)
        return
      case '0': // POP, of a value or a mark
        if (stack.length > 0 && this.marks.at(-1) === stack.length) this.marks.pop()
        else this.pop()
        return
      case '1':
        this.popMark()
        return
      case '2':
        stack.push(this.peek())
        return
      case 'p':
        this.memo.set(this.index(this.line()), this.peek())
        return
      case 'q':
        this.memo.set(this.byte(), this.peek())
        return
      case 'r':
        this.memo.set(this.unsigned(4), this.peek())
        return
      case '\x94':
        this.memo.set(this.memo.size, this.peek())
        return
      case 'a': {
        const item = this.pop()
        this.append(this.peek(), [item])
        return
      }
      case 'e': {
        const items = this.popMark()
        this.append(this.peek(), items)
        return
      }
      case 's': {
        const items = this.popMany(2)
        this.fill(this.peek(), items)
        return
      }
      case 'u': {
        const items = this.popMark()
        this.fill(this.peek(), items)
        return
      }
      case '\x90': // ADDITEMS
        this.popMark()
        return
      case 'b': // BUILD sets attributes, which nothing here has
        this.pop()
        return
      default:
        stack.push(this.made(opcode))
    }
  }

  /** The value of an opcode that bytes of a counted length follow. */
  private counted(opcode: string, length: number): unknown {
    const begin = this.take(length)
    if (opcode === '\x8a' || opcode === '\x8b') return this.integer(begin, length)
    return 'CB\x8e\x96'.includes(opcode) ? OPAQUE : this.text(begin, length)
  }

  /** A little-endian integer in two's complement. */
  private integer(begin: number, length: number): unknown {
    if (length > MOST_INTEGER_BYTES) return OPAQUE
    let value = 0n
    for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(this.bytes[begin + i] as number)
    value = BigInt.asIntN(8 * length, value)
    return Number.isSafeInteger(Number(value)) ? Number(value) : value
  }

  private index(line: string): number {
    const index = Number(line)
    if (!isCount(index)) throw this.invalid(`Expected a place in the pickle's memo but received ${shown(line)}`)
    return index
  }

  /** The value that an opcode pushes. */
  private made(opcode: string): unknown {
    switch (opcode) {
      case 'N':
        return null
      case '\x88':
        return true
      case '\x89':
        return false
      case 'K':
        return this.byte()
      case 'M':
        return this.view.getUint16(this.take(2), true)
      case 'J':
        return this.view.getInt32(this.take(4), true)
      case 'G':
        return this.view.getFloat64(this.take(8), false)
      case 'I':
      case 'L':
      case 'F':
        return Number(this.line().replace(/L$/, ''))
      case 'S':
        return this.line().slice(1, -1)
      case 'V':
        return this.line()
      case 'g':
        return this.remembered(this.index(this.line()))
      case 'h':
        return this.remembered(this.byte())
      case 'j':
        return this.remembered(this.unsigned(4))
      case ')':
      case ']':
        return this.contain([])
      case '}':
        return this.contain(new Dict())
      case 't':
      case 'l':
        return this.contain(this.popMark())
      case 'd': {
        const dict = this.contain(new Dict())
        this.fill(dict, this.popMark())
        return dict
      }
      case '\x85':
      case '\x86':
      case '\x87':
        return this.contain(this.popMany(opcode.charCodeAt(0) - 0x84))
      case 'c':
        return new Global(`${this.line()}.${this.line()}`)
      case '\x93':
        return this.global(this.popMany(2))
      default:
        return this.object(opcode)
    }
  }

  /** The value of an opcode that makes an object, of a class, a function or a number of something outside. */
  private object(opcode: string): unknown {
    switch (opcode) {
      case 'Q':
        return this.persistent(storageOf(this.pop()))
      case 'R': {
        const [callable, values] = this.popMany(2)
        return this.reduce(callable, Array.isArray(values) ? values : [])
      }
      case '\x81': // NEWOBJ
        this.popMany(2)
        return OPAQUE
      case '\x92': // NEWOBJ_EX
        this.popMany(3)
        return OPAQUE
      case 'o':
        this.popMark()
        return OPAQUE
      case 'i':
        this.line()
        this.line()
        this.popMark()
        return OPAQUE
      case 'P':
        this.line()
        return OPAQUE
      case '\x8f': // EMPTY_SET
        return OPAQUE
      case '\x91': // FROZENSET
        this.popMark()
        return OPAQUE
      case '\x82': // EXT1
      case '\x83':
      case '\x84':
        this.take(2 ** (opcode.charCodeAt(0) - 0x82))
        return OPAQUE
      default:
        throw this.invalid(`Expected an opcode of a pickle at byte ${this.at - 1} but received ${opcode.charCodeAt(0)}`)
    }
  }

  private global([module, name]: unknown[]): unknown {
    return typeof module === 'string' && typeof name === 'string' ? new Global(`${module}.${name}`) : OPAQUE
  }

  private persistent(storage: unknown): unknown {
    if (storage instanceof Storage) this.storages.set(storage.key, storage)
    return storage
  }

  private reduce(callable: unknown, values: unknown[]): unknown {
    if (!(callable instanceof Global) || callable.name !== 'collections.OrderedDict') return resultOf(callable, values)
    const dict = this.contain(new Dict())
    for (const pair of Array.isArray(values[0]) ? values[0] : []) {
      // A list may be given to many calls.
      this.contain(pair as object)
      if (Array.isArray(pair)) dict.set(pair[0], pair[1])
    }
    return dict
  }
}
