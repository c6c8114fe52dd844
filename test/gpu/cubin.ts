/**
 * What ptxas made of the kernels, read from the library itself: a fat binary holds one ELF file (cubin) per architecture.
 * Layouts: /usr/include/elf.h; fatbinary_section.h of the CUDA toolkit for the wrapper; sections and attributes of a cubin as cuobjdump shows them.
 */
import { readFile } from 'node:fs/promises'

export interface KernelCode {
  /** Mangled. */
  name: string
  registers: number
  /** Bytes of static shared memory. */
  shared: number
  /** Bytes of stack per thread: local arrays and spills live there. */
  stack: number
  /** Threads of a block at most (`__launch_bounds__`); 0: not given. */
  threads: number
  /** SASS instructions, and how many of each kind that matters. */
  instructions: number
  /** Of them NOP, which fill the text up to the end of a line of the cache. */
  padding: number
  sass: Record<(typeof OPCODES)[keyof typeof OPCODES], number>
}

/** Low 12 bits of an instruction (16 bytes each, sm_70 and newer). */
const OPCODES = {
  572: 'HMMA',
  2107: 'LDSM',
  2435: 'LDL',
  903: 'STL',
  2845: 'BAR',
} as const

interface Section {
  name: string
  type: number
  offset: number
  size: number
  info: number
}

const NOP = 0x918

const FATBIN_MAGIC = 0xba55ed50
const KIND_CUBIN = 2
const SHT_NOBITS = 8
/** Attributes of `.nv.info`. */
const EIATTR_MAX_THREADS = 0x05
const EIATTR_FRAME_SIZE = 0x11
const EIATTR_REGCOUNT = 0x2f

/** Sections of a 64-bit little-endian ELF file. */
function sections(elf: DataView): Section[] {
  const text = new TextDecoder()
  const start = Number(elf.getBigUint64(0x28, true))
  const count = elf.getUint16(0x3c, true)
  const at = (i: number) => start + 64 * i
  const raw = Array.from({ length: count }, (_, i) => ({
    nameOffset: elf.getUint32(at(i), true),
    type: elf.getUint32(at(i) + 4, true),
    offset: Number(elf.getBigUint64(at(i) + 24, true)),
    size: Number(elf.getBigUint64(at(i) + 32, true)),
    info: elf.getUint32(at(i) + 44, true),
  }))
  const names = raw[elf.getUint16(0x3e, true)]!
  return raw.map(({ nameOffset, ...section }) => {
    const from = names.offset + nameOffset
    let end = from
    while (elf.getUint8(end) !== 0) end++
    return { name: text.decode(new Uint8Array(elf.buffer, elf.byteOffset + from, end - from)), ...section }
  })
}

const view = (from: DataView, offset: number, size: number) => new DataView(from.buffer, from.byteOffset + offset, size)

/** Attributes with a payload: code → payload views. */
function attributes(info: DataView): [number, DataView][] {
  const found: [number, DataView][] = []
  for (let at = 0; at < info.byteLength; ) {
    const format = info.getUint8(at)
    const size = format === 4 ? info.getUint16(at + 2, true) : 0
    if (format === 4) found.push([info.getUint8(at + 1), view(info, at + 4, size)])
    at += 4 + size
  }
  return found
}

/** Name of each symbol by its place in the table. */
function symbols(elf: DataView, all: Section[]): string[] {
  const table = all.find(({ name }) => name === '.symtab')!
  const strings = all.find(({ name }) => name === '.strtab')!
  return Array.from({ length: table.size / 24 }, (_, i) => {
    const from = strings.offset + elf.getUint32(table.offset + 24 * i, true)
    let end = from
    while (elf.getUint8(end) !== 0) end++
    return new TextDecoder().decode(new Uint8Array(elf.buffer, elf.byteOffset + from, end - from))
  })
}

/** The kernels of one cubin. */
function kernels(elf: DataView): KernelCode[] {
  const all = sections(elf)
  const named = symbols(elf, all)
  const registers = new Map<string, number>()
  const frames = new Map<string, number>()
  for (const section of all.filter(({ name }) => name === '.nv.info')) {
    for (const [code, payload] of attributes(view(elf, section.offset, section.size))) {
      const to = code === EIATTR_REGCOUNT ? registers : code === EIATTR_FRAME_SIZE ? frames : undefined
      to?.set(named[payload.getUint32(0, true)]!, payload.getUint32(4, true))
    }
  }
  return all.flatMap((code) => {
    const name = /^\.text\.(.+)$/.exec(code.name)?.[1]
    if (name === undefined) return []
    const info = all.find((section) => section.name === `.nv.info.${name}`)
    const threads = info && attributes(view(elf, info.offset, info.size)).find(([code]) => code === EIATTR_MAX_THREADS)?.[1]
    const shared = all.find((section) => section.name === `.nv.shared.${name}` && section.type === SHT_NOBITS)
    const sass = { HMMA: 0, LDSM: 0, LDL: 0, STL: 0, BAR: 0 }
    let padding = 0
    for (let at = code.offset; at < code.offset + code.size; at += 16) {
      const bits = elf.getUint16(at, true) & 0xfff
      const opcode = OPCODES[bits as keyof typeof OPCODES]
      if (opcode) sass[opcode]++
      if (bits === NOP) padding++
    }
    return {
      name,
      registers: registers.get(name) ?? 0,
      shared: shared?.size ?? 0,
      stack: frames.get(name) ?? 0,
      threads: threads ? threads.getUint32(0, true) * threads.getUint32(4, true) * threads.getUint32(8, true) : 0,
      instructions: code.size / 16,
      padding,
      sass,
    }
  })
}

/** The kernels in a shared library or object file that nvcc built without compression, by architecture (75, 80, …). */
export async function readKernels(path: string): Promise<Map<number, KernelCode[]>> {
  const bytes = await readFile(path)
  const file = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const found = new Map<number, KernelCode[]>()
  for (const section of sections(file).filter(({ name }) => name === '.nv_fatbin')) {
    const end = section.offset + section.size
    for (let at = section.offset; at < end; ) {
      if (file.getUint32(at, true) !== FATBIN_MAGIC) {
        at += 8
        continue
      }
      const last = at + file.getUint16(at + 6, true) + Number(file.getBigUint64(at + 8, true))
      for (let entry = at + file.getUint16(at + 6, true); entry < last; ) {
        const header = file.getUint32(entry + 4, true)
        const size = Number(file.getBigUint64(entry + 8, true))
        const architecture = file.getUint32(entry + 28, true)
        if (file.getUint16(entry, true) === KIND_CUBIN) {
          found.set(architecture, [...(found.get(architecture) ?? []), ...kernels(view(file, entry + header, size))])
        }
        entry += header + size
      }
      at = last
    }
  }
  return found
}
