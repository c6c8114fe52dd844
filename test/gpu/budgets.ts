/** What every kernel may take: registers, shared memory, instructions as ptxas made them; bank conflicts and sectors as the emulator counts. */
import { spawnSync } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type KernelCode, readKernels } from './cubin.js'
import { built, emulatedLibrary, root } from './emulated.js'

export const budgetsFile = join(root, 'test/gpu/budgets.json')

type Code = Omit<KernelCode, 'name' | 'padding' | 'sass'> & KernelCode['sass']

/** Of all launches of a step: see `KernelCounters` of test/emulator/machine.h. */
export interface Counted {
  launches: number
  /** Shared-memory transactions beyond what the accesses need, for each that they need. */
  conflicts: number
  /** Bytes asked for by loads and stores of global memory, for each byte of the 32-byte sectors they touch. */
  loads: number
  stores: number
}

export interface Budgets {
  /** The compiler these are of: another one's code differs. */
  nvcc: string
  /** By architecture, then by kernel. */
  code: Record<string, Record<string, Code>>
  counted: Record<string, Counted>
}

/** `lorafuse::cuda::` and parameters left out. */
export function demangled(names: string[]): Map<string, string> {
  const { stdout } = spawnSync('c++filt', { input: names.join('\n'), encoding: 'utf8' })
  const plain = stdout.split('\n').map((name) =>
    name
      .replaceAll(/lorafuse::cuda::|\(anonymous namespace\)::|_NV_ANON_NAMESPACE::/g, '')
      .replaceAll(/\(lorafuse::Gate\)(\d)/g, (_, gate) => ['plain', 'geglu', 'geglu_grad'][Number(gate)]!)
      .replace(/^void /, '')
      .replace(/\([^()]*(\([^()]*\)[^()]*)*\)$/, ''),
  )
  return new Map(names.map((name, i) => [name, plain[i]!]))
}

async function nvccOf(library: string): Promise<string> {
  return /Cuda compilation tools, release [\d.]+, V([\d.]+)/.exec(await readFile(library, 'latin1'))?.[1] ?? 'unknown'
}

async function code(library: string): Promise<Budgets['code']> {
  const found = await readKernels(library)
  const result: Budgets['code'] = {}
  for (const [architecture, kernels] of [...found].sort(([a], [b]) => a - b)) {
    const names = demangled(kernels.map(({ name }) => name))
    const entries = kernels.map(({ name, padding: _, sass, ...rest }) => [names.get(name)!, { ...rest, ...sass }] as const)
    result[`sm_${architecture}`] = Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)))
  }
  return result
}

/** A training step of SD1.5's own widths over small latents, on the emulator. */
async function counted(library: string): Promise<Budgets['counted']> {
  const folder = await mkdtemp(join(tmpdir(), 'lorafuse-budgets-'))
  try {
    const counters = join(folder, 'counters.json')
    const { status, stderr } = spawnSync(built('gpu_check'), ['bench', '--size', '128', '--zeros', '--steps', '1'], {
      encoding: 'utf8',
      env: { ...process.env, LORAFUSE_CUDA_LIBRARY: library, PTXEMU_COUNTERS: counters, PTXEMU_MEMORY: '4G' },
    })
    if (status !== 0) throw new Error(`gpu_check failed: ${stderr}`)
    const kernels = JSON.parse(await readFile(counters, 'utf8')) as Record<string, Record<string, number>>
    const names = demangled(Object.keys(kernels))
    const ratio = (part = 0, whole = 0, none: number) => (whole === 0 ? none : Math.round((1000 * part) / whole) / 1000)
    const entries = Object.entries(kernels).map(
      ([name, c]) =>
        [
          names.get(name)!,
          {
            launches: c.launches!,
            conflicts: ratio(c.shared_conflicts, c.shared_passes, 0),
            loads: ratio(c.global_load_bytes, 32 * c.global_load_sectors!, 1),
            stores: ratio(c.global_store_bytes, 32 * c.global_store_sectors!, 1),
          },
        ] as const,
    )
    return Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)))
  } finally {
    await rm(folder, { recursive: true })
  }
}

/** Of the libraries as they are built now: the code of `library`, counted with the one that the emulator runs. */
export async function measure(library = emulatedLibrary): Promise<Budgets> {
  return { nvcc: await nvccOf(library), code: await code(library), counted: await counted(emulatedLibrary) }
}
