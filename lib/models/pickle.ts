/**
 * A machine for the pickles in PyTorch's files (python/cpython:Lib/pickletools.py) that builds dicts, lists, strings, numbers and the places
 * of tensors, and nothing else. A class or function is no more than its name here: what it would make is `OPAQUE`, and nothing is called.
 * Work and memory are bounded by the bytes of the pickle, whatever they say.
 */
import type { LorafuseError } from '../errors.js'
import { type Turn, turns } from '../turns.js'
import { PickleBytes } from './pickle-bytes.js'
import { Dict, Global, OPAQUE, resultOf, Storage, storageOf } from './torch-objects.js'

/** Values on the stack and in the memo, lists and dicts: more than any checkpoint with the states of its optimizer has. */
const MOST_VALUES = 2 ** 20
const MOST_CONTAINERS = 2 ** 19
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
  private readonly bytes: PickleBytes

  constructor(
    bytes: Uint8Array,
    private readonly invalid: (problem: string) => LorafuseError,
    ended: () => Error = () => invalid('Expected a whole pickle but it ends early'),
  ) {
    this.bytes = new PickleBytes(bytes, invalid, ended)
  }

  /** Where the next pickle begins. */
  get at(): number {
    return this.bytes.at
  }

  /** Reads the next pickle. Throws what `invalid` and `ended` make. */
  async load(turn: Turn = turns()): Promise<unknown> {
    this.stack = []
    this.marks = []
    this.memo = new Map()
    this.storages = new Map()
    for (let count = 1; ; count++) {
      const opcode = String.fromCharCode(this.bytes.byte())
      if (opcode === '.') return this.pop()
      this.step(opcode)
      if (this.stack.length > MOST_VALUES || this.memo.size > MOST_VALUES || this.marks.length > MOST_VALUES) {
        throw this.invalid(`Expected a pickle of at most ${MOST_VALUES} values but it has more`)
      }
      if (count % PIECE === 0) await turn()
    }
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
    const { stack, bytes } = this
    if (opcode in LENGTHS) {
      stack.push(this.counted(opcode, bytes.unsigned(LENGTHS[opcode] as number)))
      return
    }
    switch (opcode) {
      case '\x80': // PROTO
        bytes.take(1)
        return
      case '\x95': // FRAME
        bytes.take(8)
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
        this.memo.set(bytes.index(), this.peek())
        return
      case 'q':
        this.memo.set(bytes.byte(), this.peek())
        return
      case 'r':
        this.memo.set(bytes.unsigned(4), this.peek())
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
    if (opcode === '\x8a' || opcode === '\x8b') return this.bytes.integer(length)
    if (!'CB\x8e\x96'.includes(opcode)) return this.bytes.text(length)
    this.bytes.take(length)
    return OPAQUE
  }

  /** The value that an opcode pushes. */
  private made(opcode: string): unknown {
    const { bytes } = this
    switch (opcode) {
      case 'N':
        return null
      case '\x88':
        return true
      case '\x89':
        return false
      case 'K':
        return bytes.byte()
      case 'M':
        return bytes.unsigned(2)
      case 'J':
        return bytes.signed()
      case 'G':
        return bytes.float()
      case 'I':
      case 'L':
      case 'F':
        return Number(bytes.line().replace(/L$/, ''))
      case 'S':
        return bytes.line().slice(1, -1)
      case 'V':
        return bytes.line()
      case 'g':
        return this.remembered(bytes.index())
      case 'h':
        return this.remembered(bytes.byte())
      case 'j':
        return this.remembered(bytes.unsigned(4))
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
        return new Global(`${bytes.line()}.${bytes.line()}`)
      case '\x93': {
        // Of lists in lists a name could be longer than all memory.
        const names = this.popMany(2)
        return names.every((name) => typeof name === 'string') ? new Global(names.join('.')) : OPAQUE
      }
      default:
        return this.object(opcode)
    }
  }

  /** The value of an opcode that makes an object, of a class, a function or a number of something outside. */
  private object(opcode: string): unknown {
    const { bytes } = this
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
        bytes.line()
        bytes.line()
        this.popMark()
        return OPAQUE
      case 'P':
        bytes.line()
        return OPAQUE
      case '\x8f': // EMPTY_SET
        return OPAQUE
      case '\x91': // FROZENSET
        this.popMark()
        return OPAQUE
      case '\x82': // EXT1
      case '\x83':
      case '\x84':
        bytes.take(2 ** (opcode.charCodeAt(0) - 0x82))
        return OPAQUE
      default:
        throw this.invalid(`Expected an opcode of a pickle at byte ${this.at - 1} but received ${opcode.charCodeAt(0)}`)
    }
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
