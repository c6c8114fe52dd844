/**
 * How long a training step of SD1.5 or SDXL would take on an RTX 2080 Ti: an estimate, from what its kernels do. The emulator counts a
 * sample of the blocks of every launch, ptxas says what a kernel takes, and each launch gets the times that the parts of the GPU
 * would need for its work.
 * Two figures: all parts busy at once, at their peaks, and a cautious one.
 */
import { spawnSync } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { demangled } from './budgets.js'
import { type KernelCode, readKernels } from './cubin.js'
import { built, emulatedLibrary } from './emulated.js'

/** RTX 2080 Ti. NVIDIA, "Turing GPU Architecture" (WP-09183-001), table 1, unless another source is named. */
export const GPU = {
  multiprocessors: 68,
  /** Cycles a second: the boost clock. */
  clock: 1.545e9,
  schedulers: 4,
  /** FLOP of the tensor cores a cycle and multiprocessor: 53.8 TFLOP/s with f32 sums, half of what they do with f16 sums. */
  tensor: 512,
  /** Special functions and conversions a cycle and multiprocessor: CUDA C++ Programming Guide, "Arithmetic Instructions", 7.5. */
  special: 16,
  /** Bytes a second. */
  memory: 616e9,
  /** Bytes from L2 a cycle and multiprocessor: 1270 GB/s by 40 at 1.59 GHz. Jia et al., arXiv:1903.07486 (T4). */
  l2: 20,
  /** Shared-memory passes of 128 bytes a cycle and multiprocessor: 32 banks of 32 bits. Programming Guide, "Shared Memory", 5.x. */
  shared: 1,
  /** Seconds between two nodes of a CUDA graph. An assumption: 0.5 to 1.5 µs are reported for recent drivers. */
  gap: 0.7e-6,
} as const

/** What the cautious figure takes off. Experience of tuned kernels rather than documents: assumptions. */
export const CAUTION = {
  /** Of the tensor cores' and of the memory's peak. */
  tensor: 0.9,
  memory: 0.8,
  /** A pass takes two cycles: 64 bytes a cycle is what Yan, Wang and Chu (IPDPS 2020) measure on an RTX 2070. */
  shared: 0.5,
  /** An instruction keeps its unit of 16 lanes busy for two cycles; another unit may start in the second, or not. */
  issue: 0.5,
  /** Filling and draining the GPU, in seconds a launch: about a trip to memory at either end. */
  launch: 1e-6,
} as const

/** One launch as PTXEMU_LAUNCHES writes it; counters: `KernelCounters` of test/emulator/machine.h. */
export interface Launch {
  kernel: string
  grid: [number, number, number]
  block: [number, number, number]
  dynamic_shared: number
  ptx_instructions: number
  counters: Record<
    | 'blocks'
    | 'blocks_run'
    | 'warp_instructions'
    | 'special'
    | 'mma_k8'
    | 'shared_passes'
    | 'shared_conflicts'
    | 'global_load_bytes'
    | 'global_store_bytes'
    | 'global_load_sectors'
    | 'global_store_sectors',
    number
  >
}

/** An op of the graph: what its tensors hold, and the launches that compute it. */
export interface Op {
  name: string
  flops: number
  bytes: number
  launches: Launch[]
}

/**
 * Blocks that a multiprocessor of compute capability 7.5 holds at once (cudaOccMaxActiveBlocksPerMultiprocessor of
 * cuda_occupancy.h): each of its four partitions gives 16384 registers to warps in pieces of 256; 64 KiB of shared memory in pieces
 * of 256; 1024 threads, 16 blocks.
 */
export function blocksPerMultiprocessor(registers: number, shared: number, threads: number): number {
  const roundUp = (n: number, to: number) => Math.ceil(n / to) * to
  const warps = Math.ceil(threads / 32)
  const ofWarp = roundUp(32 * registers, 256)
  if (ofWarp * roundUp(warps, 4) > 65536 || roundUp(shared, 256) > 65536) return 0
  const byRegisters = Math.floor((4 * Math.floor(16384 / ofWarp)) / warps)
  const byShared = shared === 0 ? 16 : Math.floor(65536 / roundUp(shared, 256))
  return Math.min(byRegisters, byShared, Math.floor(32 / warps), 16)
}

export type Bound = 'tensor' | 'issue' | 'special' | 'shared' | 'L2' | 'memory'

export interface Estimate {
  /** Seconds that each part of the GPU needs. */
  bounds: Record<Bound, number>
  /** The longest of them, and which it is. */
  seconds: number
  by: Bound
  /** The same below the peaks, and as far as its warps hide one part behind another. */
  cautious: number
  blocksPerMultiprocessor: number
  /** How often the grid fills the GPU. */
  waves: number
}

/**
 * `bytes`: of the tensors of its op. Memory has to move them once, if L2 keeps what the op's other launches need again: `left` are
 * still to move.
 */
export function estimate(
  launch: Launch,
  code: Pick<KernelCode, 'registers' | 'shared' | 'instructions' | 'padding'>,
  bytes: number,
  left: number,
): Estimate {
  const { counters: c, grid, block } = launch
  const blocks = grid[0] * grid[1] * grid[2]
  const threads = block[0] * block[1] * block[2]
  const resident = blocksPerMultiprocessor(code.registers, code.shared + launch.dynamic_shared, threads)
  // The busiest multiprocessor decides: what an average block does, by the blocks that it gets.
  const busiest = Math.ceil(blocks / GPU.multiprocessors) / blocks / GPU.clock
  const sectors = 32 * (c.global_load_sectors + c.global_store_sectors)
  // PTX is counted, SASS executed: for one as many as in the text of the whole kernel, but no more than one (ptxas unrolls loops).
  const instructions = c.warp_instructions * Math.min(1, (code.instructions - code.padding) / launch.ptx_instructions)
  const bounds: Estimate['bounds'] = {
    tensor: (2048 * c.mma_k8 * busiest) / GPU.tensor,
    issue: (instructions * busiest) / GPU.schedulers,
    special: (32 * c.special * busiest) / GPU.special,
    shared: ((c.shared_passes + c.shared_conflicts) * busiest) / GPU.shared,
    L2: (sectors * busiest) / GPU.l2,
    memory: Math.min(sectors, left) / GPU.memory,
  }
  const by = longest(bounds)
  const inside = [bounds.tensor / CAUTION.tensor, bounds.issue / CAUTION.issue, bounds.special, bounds.shared / CAUTION.shared]
  const most = Math.max(...inside)
  const warps = Math.max(1, (Math.min(resident, Math.ceil(blocks / GPU.multiprocessors)) * Math.ceil(threads / 32)) / GPU.schedulers)
  return {
    bounds,
    seconds: bounds[by],
    by,
    // Inside a multiprocessor a warp alone does one thing after another; of several on a scheduler each hides its share. Loads run ahead.
    cautious:
      Math.max(
        most + (inside.reduce((sum, x) => sum + x, 0) - most) / warps,
        bounds.L2,
        Math.min(sectors, bytes) / GPU.memory / CAUTION.memory,
      ) + CAUTION.launch,
    blocksPerMultiprocessor: resident,
    waves: blocks / (GPU.multiprocessors * resident),
  }
}

function longest(bounds: Record<string, number>): Bound {
  return Object.entries(bounds).reduce((a, b) => (b[1] > a[1] ? b : a))[0] as Bound
}

/** All launches of a kernel in a step. */
export interface Row {
  kernel: string
  launches: number
  seconds: number
  cautious: number
  /** Of `seconds`, the share that each part decides. */
  by: Partial<Record<Bound, number>>
  /** Of the tensor cores' peak over `seconds`. */
  tensor: number
  conflicts: number
  sectors: number
  registers: number
  blocksPerMultiprocessor: number
  /** Of the threads that a multiprocessor holds. */
  occupancy: number
  waves: [number, number]
}

/** The launches of a step by kernel. `code`: by mangled name. */
export function rows(ops: Op[], code: Map<string, KernelCode>): Row[] {
  const all = new Map<string, { launches: Launch[]; estimates: Estimate[] }>()
  for (const { launches, bytes } of ops) {
    let left = bytes
    for (const launch of launches) {
      const found = code.get(launch.kernel)
      if (!found) throw new Error(`Expected kernel ${launch.kernel} in the library but it is not there`)
      const kernel = all.get(launch.kernel) ?? { launches: [], estimates: [] }
      kernel.launches.push(launch)
      kernel.estimates.push(estimate(launch, found, bytes, left))
      left -= Math.min(left, 32 * (launch.counters.global_load_sectors + launch.counters.global_store_sectors))
      all.set(launch.kernel, kernel)
    }
  }
  const names = demangled([...all.keys()])
  return [...all]
    .map(([name, { launches, estimates }]) => {
      const sum = (value: (c: Launch['counters']) => number) => launches.reduce((total, { counters }) => total + value(counters), 0)
      const seconds = estimates.reduce((total, e) => total + e.seconds, 0)
      const by: Row['by'] = {}
      for (const e of estimates) by[e.by] = (by[e.by] ?? 0) + e.seconds / seconds
      const ratio = (part: number, whole: number) => (whole === 0 ? 0 : part / whole)
      const resident = Math.min(...estimates.map((e) => e.blocksPerMultiprocessor))
      const threads = Math.max(...launches.map(({ block }) => block[0] * block[1] * block[2]))
      return {
        kernel: names.get(name)!,
        launches: launches.length,
        seconds,
        cautious: estimates.reduce((total, e) => total + e.cautious, 0),
        by,
        tensor: (2048 * sum((c) => c.mma_k8)) / (GPU.tensor * GPU.multiprocessors * GPU.clock) / seconds,
        conflicts: ratio(
          sum((c) => c.shared_conflicts),
          sum((c) => c.shared_passes),
        ),
        sectors: ratio(
          sum((c) => c.global_load_bytes + c.global_store_bytes),
          32 * sum((c) => c.global_load_sectors + c.global_store_sectors),
        ),
        registers: code.get(name)!.registers,
        blocksPerMultiprocessor: resident,
        occupancy: (resident * threads) / 1024,
        waves: [Math.min(...estimates.map((e) => e.waves)), Math.max(...estimates.map((e) => e.waves))] as [number, number],
      }
    })
    .sort((a, b) => b.seconds - a.seconds)
}

/** What `gpu_check bench --nodes` and PTXEMU_LAUNCHES say of the same run: the op of each launch. */
export function opsOf(output: string, trace: string): Op[] {
  const nodes = output.split('\n').flatMap((line) => {
    const [name, flops, bytes, time] = line.split('\t')
    return time === undefined ? [] : [{ name: name!, flops: Number.parseFloat(flops!), bytes: Number.parseInt(bytes!, 10) }]
  })
  // The whole step up to its loss; then each node three times (Program::time_node), a copy to the host after each.
  const parts: Launch[][] = [[]]
  for (const line of trace.split('\n').filter((line) => line !== '')) {
    const entry = JSON.parse(line) as Launch | { copied_to_host: number }
    if ('copied_to_host' in entry) parts.push([])
    else parts.at(-1)!.push(entry)
  }
  const ops = nodes.map((node, i) => ({ ...node, launches: parts[1 + 3 * i] ?? [] }))
  const identity = ({ kernel, grid, block }: Launch) => `${kernel} ${grid} ${block}`
  const step = parts[0]!.map(identity)
  const singly = ops.flatMap(({ launches }) => launches.map(identity))
  if (nodes.length === 0 || parts.length !== 2 + 3 * nodes.length || step.join() !== singly.join()) {
    throw new Error(
      `Expected the ${step.length} launches of the step again, node by node, but ${nodes.length} nodes made ${singly.length} ` +
        `in ${parts.length} parts`,
    )
  }
  return ops
}

export interface Counted {
  ops: Op[]
  /** By mangled name. */
  code: Map<string, KernelCode>
  /** MiB, as the plan says before anything is allocated. */
  memory: { adapters: number; all: number }
}

export interface CountOptions {
  model?: 'sd15' | 'sdxl'
  size?: number
  targets?: 'all' | 'attention'
  /** MiB: blocks are computed again until the plan takes no more than that. */
  fit?: number
  /** Of each launch about one block in so many runs. */
  sample?: number
  library?: string
}

/** Runs one step on the emulator. */
export async function count(options: CountOptions = {}): Promise<Counted> {
  const { model = 'sd15', size = 512, sample = 8, targets = 'all', fit, library = emulatedLibrary } = options
  const folder = await mkdtemp(join(tmpdir(), 'lorafuse-roofline-'))
  try {
    const trace = join(folder, 'launches.jsonl')
    const { status, stdout, stderr } = spawnSync(
      built('gpu_check'),
      [
        'bench',
        '--model',
        model,
        '--size',
        `${size}`,
        '--targets',
        targets,
        '--zeros',
        '--steps',
        '1',
        '--nodes',
        ...(fit ? ['--fit', `${fit}`] : []),
      ],
      {
        encoding: 'utf8',
        maxBuffer: 2 ** 26,
        env: {
          ...process.env,
          LORAFUSE_CUDA_LIBRARY: library,
          PTXEMU_LAUNCHES: trace,
          PTXEMU_SAMPLE: `${sample}`,
          PTXEMU_MEMORY: '12G',
          PTXEMU_MULTIPROCESSORS: `${GPU.multiprocessors}`, // grids and splits are fitted to them
        },
      },
    )
    if (status !== 0) throw new Error(`gpu_check failed: ${stderr}`)
    const memory = /adapters and moments (\d+), .* all (\d+) MiB/.exec(stdout)
    if (!memory) throw new Error(`Expected the planned memory in the output of gpu_check but found\n${stdout.slice(0, 1000)}`)
    const kernels = (await readKernels(library)).get(75)
    if (!kernels) throw new Error(`Expected ${library} to be built for sm_75`)
    return {
      ops: opsOf(stdout, await readFile(trace, 'utf8')),
      code: new Map(kernels.map((kernel) => [kernel.name, kernel])),
      memory: { adapters: Number(memory[1]), all: Number(memory[2]) },
    }
  } finally {
    await rm(folder, { recursive: true })
  }
}
