/** The folder a training writes to: LoRA files named as kohya's, and their states beside them. */
import { open, rm, rmdir, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { type Adapters, changedCount, parameterCount } from '../adapters/adapter.js'
import { fileTensors, layouts } from '../adapters/files.js'
import type { Prefixes } from '../adapters/kohya.js'
import { LorafuseError } from '../errors.js'
import { makeFolder, targetOf, temporaryOf, writeError } from '../files/atomic.js'
import type { FloatType } from '../files/floats.js'
import { hashTensors } from '../files/hashes.js'
import { Lock } from '../files/lock.js'
import { listFolder } from '../files/read.js'
import { packTensors, writeSafetensors } from '../files/safetensors.js'
import type { BufferInfo } from '../native.js'
import type { ResolvedTrainOptions } from '../options/resolve.js'
import { STATE_SUFFIX, statePathOf, type TrainingState, writeState } from './state.js'
import { listStates, removeOldStates, timeToWrite } from './states.js'

const DTYPES = { fp16: 'F16', bf16: 'BF16', f32: 'F32' } as const satisfies Record<string, FloatType>

type OutputOptions = Pick<ResolvedTrainOptions, 'output' | 'name' | 'savePrecision' | 'networkFormat'>

/** Names one file of a training, as kohya does: `{name}-step00000100`, `{name}-000002`, `{name}`. */
export type CheckpointName = { step: number } | { epoch: number } | 'last'

export interface Saved {
  path: string
  statePath: string
}

const digits = (value: number, count: number) => String(value).padStart(count, '0')

/** What comes after the name of a run in the names of its other files; the states' is `STATE_SUFFIX`. */
const SUFFIX = /^(-step\d{8,}|-\d{6,})?\.safetensors$|^\.lock$/

function full(output: string, reason: string): LorafuseError {
  return new LorafuseError('DISK_FULL', `Expected room for the LoRA and its state in ${output} but received ${reason}; free some space`)
}

/** Counts the bytes that saving needs besides the disk's: the buffers of the state, and the LoRA in its order and type. */
export function bytesToSave(
  buffers: BufferInfo[],
  adapters: Adapters,
  { savePrecision, networkFormat }: Pick<OutputOptions, 'savePrecision' | 'networkFormat'>,
): number {
  const floats = buffers.reduce((sum, { count }) => sum + count, changedCount(adapters, layouts[networkFormat].alpha))
  return 4 * floats + 2 * roundedCount(adapters, savePrecision)
}

/** In f32 a LoRA is written from the buffers. */
function roundedCount({ parameters }: Adapters, precision: OutputOptions['savePrecision']): number {
  return precision === 'f32' ? 0 : parameterCount(parameters)
}

function suffixOf(checkpoint: CheckpointName): string {
  if (checkpoint === 'last') return ''
  return 'step' in checkpoint ? `-step${digits(checkpoint.step, 8)}` : `-${digits(checkpoint.epoch, 6)}`
}

export class OutputFolder {
  /** The folders that `prepare` made, parents first. */
  private made: string[] = []
  private lock: Lock | undefined
  /** Where the LoRA is put into a file's order and scale, and rounded. */
  private ordered = new Float32Array(0)
  private room = new Uint16Array(0)

  /** `prefixes`: see `loraPrefixes`. */
  constructor(
    private readonly options: OutputOptions,
    private readonly adapters: Adapters,
    private readonly prefixes: Prefixes,
  ) {}

  /**
   * Creates the folder, locks this name in it, tries to write there, removes temporary files of killed processes, and reserves the memory that
   * saving needs. `buffers`: those that a state holds. Throws `OUTPUT_NOT_WRITABLE`, `OUTPUT_LOCKED`, `DISK_FULL` (a checkpoint and its state
   * would not fit).
   */
  async prepare(buffers: BufferInfo[], signal?: AbortSignal): Promise<void> {
    const { output, name, savePrecision } = this.options
    // The longest name of all.
    const probe = temporaryOf(join(output, `${name}${suffixOf({ step: 0 })}.safetensors`))
    try {
      this.made = await makeFolder(output)
      const file = await open(probe, 'wx')
      try {
        await file.writeFile('x').finally(() => file.close())
      } finally {
        await rm(probe, { force: true })
      }
    } catch (cause) {
      throw writeError(probe, cause, 'to be able to write a file like')
    }
    this.lock = await Lock.take(join(output, `${name}.lock`), `training of ${name} in ${output}`, signal)
    await this.removeTemporaries()
    // The LoRA in f32, its largest type, and its state.
    const needed = 4 * buffers.reduce((sum, { count }) => sum + count, parameterCount(this.adapters.parameters))
    // Some network file systems report no size.
    const { blocks, bavail, bsize } = await statfs(output).catch(() => ({ blocks: 0, bavail: 0, bsize: 0 }))
    if (blocks > 0 && bavail * bsize < needed)
      throw full(output, `${Math.floor((bavail * bsize) / 2 ** 20)} of ${Math.ceil(needed / 2 ** 20)} MiB`)
    this.ordered = new Float32Array(changedCount(this.adapters, layouts[this.options.networkFormat].alpha))
    this.room = new Uint16Array(roundedCount(this.adapters, savePrecision))
  }

  /** Gives the name back, and removes the folders that `prepare` made and that are still empty. */
  async close(): Promise<void> {
    await this.lock?.release()
    for (const folder of this.made.toReversed()) await rmdir(folder).catch(() => undefined)
  }

  /** Nobody else writes files of this name now, as it is locked; but another run may be named as one of its checkpoints, `x-000001`. */
  private async removeTemporaries(): Promise<void> {
    const { output, name } = this.options
    const files = await listFolder(output, 'a folder to write to')
    for (const file of files) {
      const rest = file.startsWith(name) ? (targetOf(file)?.slice(name.length) ?? '') : ''
      const found = SUFFIX.exec(rest) ?? STATE_SUFFIX.exec(rest)
      const another = found?.[1] === undefined ? undefined : `${name}${found[1]}.lock`
      if (!found || (another !== undefined && files.includes(another))) continue
      await rm(join(output, file), { force: true }).catch(() => undefined)
    }
  }

  /**
   * Writes a LoRA, then its state, and removes old states. Throws `DISK_FULL`, `OUTPUT_NOT_WRITABLE`, `OUTPUT_LOCKED` (another took the lock);
   * earlier files stay intact.
   */
  async save(checkpoint: CheckpointName, state: TrainingState, metadata: Record<string, string>): Promise<Saved> {
    const { output, name, savePrecision, networkFormat } = this.options
    const path = join(output, `${name}${suffixOf(checkpoint)}.safetensors`)
    await this.lock?.check()
    const { adapters, prefixes, ordered } = this
    const named = await fileTensors(networkFormat, adapters, state.buffers.weights!, DTYPES[savePrecision], prefixes, ordered)
    const whole = { ...metadata, ...layouts[networkFormat].metadata(adapters.parameters) }
    const tensors = await packTensors(named, this.room)
    const { model, legacy } = await hashTensors(tensors, whole)
    await writeSafetensors(path, tensors, { ...whole, sshs_model_hash: model, sshs_legacy_hash: legacy })
    const statePath = statePathOf(path)
    const before = await listStates(output, name)
    await writeState(statePath, state, { name, writtenAt: timeToWrite(before) })
    await removeOldStates(before, state.run, statePath)
    return { path, statePath }
  }
}
