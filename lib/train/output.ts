/** The folder a training writes to: LoRA files under kohya's names, and their states beside them. */
import { open, readdir, rm, rmdir, stat, statfs } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { type Adapters, parameterCount } from '../adapters/adapter.js'
import { kohyaTensors } from '../adapters/files.js'
import type { Prefixes } from '../adapters/kohya.js'
import { LorafuseError } from '../errors.js'
import { makeFolder } from '../files/atomic.js'
import type { FloatType } from '../files/floats.js'
import { hashTensors } from '../files/hashes.js'
import { packTensors, writeSafetensors } from '../files/safetensors.js'
import type { BufferInfo } from '../native.js'
import type { ResolvedTrainOptions } from '../options/resolve.js'
import { removeOldStates, statePathOf, type TrainingState, writeState } from './state.js'

const DTYPES = { fp16: 'F16', bf16: 'BF16', f32: 'F32' } as const satisfies Record<string, FloatType>

type OutputOptions = Pick<ResolvedTrainOptions, 'output' | 'name' | 'savePrecision'>

/** Names one file of a training, as kohya does: `{name}-step00000100`, `{name}-000002`, `{name}`. */
export type CheckpointName = { step: number } | { epoch: number } | 'last'

export interface Saved {
  path: string
  statePath: string
}

const digits = (value: number, count: number) => String(value).padStart(count, '0')

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

function notWritable(output: string, cause: unknown): LorafuseError {
  const { code } = cause as NodeJS.ErrnoException
  if (code === 'ENOSPC' || code === 'EDQUOT') return full(output, code)
  return new LorafuseError('OUTPUT_NOT_WRITABLE', `Expected a folder to write to for output but received ${output} (${code})`, { cause })
}

function full(output: string, reason: string): LorafuseError {
  return new LorafuseError('DISK_FULL', `Expected room for the LoRA and its state in ${output} but received ${reason}; free some space`)
}

function suffixOf(checkpoint: CheckpointName): string {
  if (checkpoint === 'last') return ''
  return 'step' in checkpoint ? `-step${digits(checkpoint.step, 8)}` : `-${digits(checkpoint.epoch, 6)}`
}

export class OutputFolder {
  /** The folders that `prepare` made, parents first. */
  private made: string[] = []

  /** `prefixes`: see `loraPrefixes`. */
  constructor(
    private readonly options: OutputOptions,
    private readonly adapters: Adapters,
    private readonly prefixes: Prefixes,
  ) {}

  /**
   * Creates the folder, tries to write there, and removes temporary files of killed processes. `buffers`: those that a state holds. Throws
   * `OUTPUT_NOT_WRITABLE`, `DISK_FULL` (a checkpoint and its state would not fit).
   */
  async prepare(buffers: BufferInfo[]): Promise<void> {
    const { output, name } = this.options
    const probe = join(output, `${name}.safetensors.tmp-${process.pid}-0`)
    try {
      this.made = await makeFolder(resolve(output))
      const file = await open(probe, 'w')
      await file.writeFile('x').finally(() => file.close())
      await rm(probe, { force: true })
      await this.removeTemporaries()
    } catch (cause) {
      throw notWritable(output, cause)
    }
    // The LoRA in f32, its largest type, and its state.
    const needed = 4 * buffers.reduce((sum, { count }) => sum + count, parameterCount(this.adapters.parameters))
    const { blocks, bavail, bsize } = await statfs(output)
    // Some network file systems report no size.
    if (blocks > 0 && bavail * bsize < needed)
      throw full(output, `${Math.floor((bavail * bsize) / 2 ** 20)} of ${Math.ceil(needed / 2 ** 20)} MiB`)
  }

  /** Removes the folders that `prepare` made and that are still empty. */
  async removeEmpty(): Promise<void> {
    for (const folder of this.made.toReversed()) await rmdir(folder).catch(() => undefined)
  }

  private async removeTemporaries(): Promise<void> {
    const { output, name } = this.options
    for (const file of await readdir(output)) {
      const [, writer] = /\.safetensors\.tmp-(\d+)-\d+$/.exec(file) ?? []
      if (writer === undefined || !file.startsWith(name)) continue
      const path = join(output, file)
      const found = await stat(path).catch(() => undefined)
      // In a container, this process may have the pid of the dead one.
      const own = Number(writer) === process.pid
      const dead = own ? found && found.mtimeMs < Date.now() - process.uptime() * 1000 : !isAlive(Number(writer))
      if (dead) await rm(path, { force: true })
    }
  }

  /** Writes a LoRA, then its state, and removes old states. Throws `DISK_FULL`, `OUTPUT_NOT_WRITABLE`; earlier files stay intact. */
  async save(checkpoint: CheckpointName, state: TrainingState, metadata: Record<string, string>): Promise<Saved> {
    const { output, name, savePrecision } = this.options
    const path = join(output, `${name}${suffixOf(checkpoint)}.safetensors`)
    const tensors = packTensors(kohyaTensors(this.adapters, state.buffers.weights!, DTYPES[savePrecision], this.prefixes))
    const { model, legacy } = hashTensors(tensors, metadata)
    await writeSafetensors(path, tensors, { ...metadata, sshs_model_hash: model, sshs_legacy_hash: legacy })
    const statePath = statePathOf(path)
    await writeState(statePath, state)
    await removeOldStates(output, name, state.run)
    return { path, statePath }
  }
}
