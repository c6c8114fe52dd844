/** Training states: a session's buffers in f32, and what identifies the run that may continue from them. Everything else is derived. */
import { createHash } from 'node:crypto'
import { readdir, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { LorafuseError } from '../errors.js'
import { parseRecord } from '../files/json.js'
import { readHeader, readTensors, type SafetensorsHeader, writeSafetensors } from '../files/safetensors.js'
import type { BufferInfo, Session } from '../native.js'
import type { LossScaleState } from './loss-scale.js'

/** Identifies the model, images and settings that a state was trained with. */
export interface Identity {
  /** sha256 of the UNet's weights. */
  model: string
  /** sha256 of the images' names, sizes, repeats and captions. */
  images: string
  /** The options that change the result. */
  settings: Record<string, unknown>
}

/** Identifies a run, however often it is interrupted and resumed. */
export interface RunId {
  sessionId: number
  /** Unix time in seconds. */
  startedAt: number
}

/** A session's buffers by name, in the session's order. */
type Buffers = Record<string, Float32Array>

export interface TrainingState {
  step: number
  run: RunId
  /** Undefined before the first step. */
  lossScale: LossScaleState | undefined
  identity: Identity
  buffers: Buffers
}

interface About extends RunId {
  version: 1
  step: number
  identity: Identity
  lossScale: LossScaleState | undefined
  sha256: string
}

const KEY = 'lorafuse_state'
/** How many states of a run are kept. */
const KEPT = 2

function hash(buffers: Buffers): string {
  const sha256 = createHash('sha256')
  for (const buffer of Object.values(buffers)) sha256.update(buffer)
  return sha256.digest('hex')
}

function invalid(path: string, problem: string, cause?: unknown): LorafuseError {
  return new LorafuseError('STATE_INVALID', `Expected a training state at ${path} but received ${problem}`, { cause })
}

/** Lists the buffers that a state holds: all but the gradients, which are zero between updates. */
export function stateBuffers(session: Pick<Session, 'buffers'>): BufferInfo[] {
  return session.buffers().filter(({ name }) => name !== 'gradients')
}

/** Writes a state. Throws as `writeAtomically`. */
export async function writeState(path: string, { step, run, identity, lossScale, buffers }: TrainingState): Promise<void> {
  const about: About = { version: 1, step, ...run, identity, lossScale, sha256: hash(buffers) }
  const tensors = Object.entries(buffers).map(([name, data]) => ({ name, dtype: 'F32' as const, shape: [data.length], data }))
  await writeSafetensors(path, tensors, { [KEY]: JSON.stringify(about) })
}

/** Reads a state's description from its metadata. Throws `STATE_NOT_FOUND`, `STATE_INVALID`. */
async function readAbout(path: string): Promise<{ about: About; header: SafetensorsHeader }> {
  const header = await readHeader(path).catch((cause: unknown) => {
    if (!(cause instanceof LorafuseError)) throw cause
    if (cause.code === 'FILE_NOT_FOUND') {
      throw new LorafuseError('STATE_NOT_FOUND', `Expected a training state at ${path} but received no readable file`, { cause })
    }
    throw invalid(path, `a damaged file: ${cause.message}`, cause)
  })
  const text = header.metadata[KEY]
  if (text === undefined) throw invalid(path, 'another file; states are named …-state.safetensors')
  const about = parseRecord(text) as About | undefined
  if (!about) throw invalid(path, 'a damaged file: its description is no JSON')
  if (about.version !== 1) throw invalid(path, `version ${about.version}; update lorafuse`)
  return { about, header }
}

/** Compares a state's identity with the parts of this run's that are known. Throws `STATE_MISMATCH` with what differs. */
export function checkIdentity(path: string, saved: Identity, now: Partial<Identity>): void {
  const { model = saved.model, images = saved.images, settings = saved.settings } = now
  const found: string[] = []
  if (saved.model !== model) found.push('another model')
  if (saved.images !== images) found.push('other images or captions')
  for (const name of new Set([...Object.keys(saved.settings), ...Object.keys(settings)])) {
    const [before, after] = [saved.settings[name], settings[name]].map((value) => JSON.stringify(value) ?? 'none')
    if (before !== after) found.push(`${name} ${before} instead of ${after}`)
  }
  if (found.length === 0) return
  const advice = 'resume with what it was trained with, or train anew without resume'
  throw new LorafuseError('STATE_MISMATCH', `Expected a state of this run at ${path} but received one of ${found.join(', ')}; ${advice}`)
}

/**
 * Reads a state, for a run with these buffers and, as far as it is known, the identity `now`. Throws `STATE_NOT_FOUND`,
 * `STATE_INVALID` (damaged, or no state), `STATE_MISMATCH`.
 */
export async function readState(path: string, now: Partial<Identity>, infos: BufferInfo[]): Promise<TrainingState> {
  const { about, header } = await readAbout(path)
  const { step, sessionId, startedAt, identity, lossScale, sha256 } = about
  checkIdentity(path, identity, now)
  const names = infos.map(({ name }) => name)
  const tensors = await readTensors(path, names, header).catch((cause: unknown) => {
    throw cause instanceof LorafuseError ? invalid(path, `a damaged file: ${cause.message}`, cause) : cause
  })
  const buffers: Buffers = Object.fromEntries(names.map((name) => [name, tensors.get(name)!.data]))
  if (hash(buffers) !== sha256) throw invalid(path, 'a damaged file: its checksum differs')
  for (const { name, count } of infos) {
    const { length } = buffers[name]!
    if (length !== count) throw invalid(path, `${length} numbers of ${name} where this run has ${count}`)
  }
  return { step, run: { sessionId, startedAt }, lossScale, identity, buffers }
}

/** Returns the path of a checkpoint's state, beside the checkpoint. */
export function statePathOf(path: string): string {
  return path.replace(/\.safetensors$/, '-state.safetensors')
}

/** Lists the states of a name in the order in which they were saved, and the errors of the damaged ones. */
async function list(output: string, name: string): Promise<{ states: (About & { path: string })[]; damaged: LorafuseError[] }> {
  const suffix = /^(-step\d{8,}|-\d{6,})?-state\.safetensors$/
  const files = (await readdir(output)).filter((file) => file.startsWith(name) && suffix.test(file.slice(name.length)))
  const states: (About & { path: string })[] = []
  const damaged: LorafuseError[] = []
  for (const path of files.map((file) => join(output, file))) {
    try {
      states.push({ ...(await readAbout(path)).about, path })
    } catch (error) {
      if (!(error instanceof LorafuseError)) throw error
      damaged.push(error)
    }
  }
  states.sort((a, b) => a.startedAt - b.startedAt || a.step - b.step)
  return { states, damaged }
}

/** Finds the newest state of a name, if there is any. Throws `STATE_INVALID` if one is damaged, as it may have been the newest. */
export async function newestState(output: string, name: string): Promise<string | undefined> {
  const { states, damaged } = await list(output, name)
  if (damaged[0]) throw damaged[0]
  return states.at(-1)?.path
}

/** Removes all but the newest two states of a run; those of other runs stay. */
export async function removeOldStates(output: string, name: string, { sessionId }: RunId): Promise<void> {
  const { states } = await list(output, name)
  const own = states.filter((state) => state.sessionId === sessionId)
  for (const { path } of own.slice(0, -KEPT)) await unlink(path)
}
