/** Training states: adapters and moments in f32 and all that tells whether a run may go on from them. Everything else is derived. */
import { createHash } from 'node:crypto'
import { readdir, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { LorafuseError } from '../errors.js'
import { readHeader, readTensors, type SafetensorsHeader, writeSafetensors } from '../files/safetensors.js'
import type { LossScaleState } from './loss-scale.js'

/** What a state was trained on. */
export interface Identity {
  /** sha256 of the UNet's weights. */
  model: string
  /** sha256 of the images' names, sizes, repeats and captions. */
  images: string
  /** The options that change the result. */
  settings: Record<string, unknown>
}

/** A run, however often it was interrupted. */
export interface RunId {
  sessionId: number
  /** Unix time in seconds. */
  startedAt: number
}

/** The flat buffers of the native side. */
export interface Buffers {
  weights: Float32Array
  firstMoment: Float32Array
  secondMoment: Float32Array
}

export interface TrainingState extends Buffers {
  step: number
  run: RunId
  /** Undefined before the first step. */
  lossScale: LossScaleState | undefined
}

interface About extends RunId {
  version: 1
  step: number
  identity: Identity
  lossScale?: LossScaleState
  sha256: string
}

const KEY = 'lorafuse_state'
const BUFFERS = ['weights', 'firstMoment', 'secondMoment'] as const
/** So many states of a run stay. */
const KEPT = 2

const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array) => new Uint8Array(buffer, byteOffset, byteLength)

function hash(buffers: Buffers): string {
  const sha256 = createHash('sha256')
  for (const name of BUFFERS) sha256.update(bytesOf(buffers[name]))
  return sha256.digest('hex')
}

function invalid(path: string, problem: string, cause?: unknown): LorafuseError {
  return new LorafuseError('STATE_INVALID', `Expected a training state at ${path} but received ${problem}`, { cause })
}

/** Writes a state. Throws as `writeAtomically`. */
export async function writeState(path: string, state: TrainingState, identity: Identity): Promise<void> {
  const about: About = {
    version: 1,
    step: state.step,
    ...state.run,
    identity,
    ...(state.lossScale ? { lossScale: state.lossScale } : {}),
    sha256: hash(state),
  }
  const tensors = BUFFERS.map((name) => ({ name, dtype: 'F32' as const, shape: [state[name].length], data: state[name] }))
  await writeSafetensors(path, tensors, { [KEY]: JSON.stringify(about) })
}

/** Reads what a state says of itself. Throws `STATE_NOT_FOUND`, `STATE_INVALID`. */
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
  let about: About
  try {
    about = JSON.parse(text) as About
  } catch (cause) {
    throw invalid(path, 'a damaged file: its description is no JSON', cause)
  }
  if (about.version !== 1) throw invalid(path, `version ${about.version}; update lorafuse`)
  return { about, header }
}

/** What differs, in words. */
function differences(saved: Identity, now: Identity): string[] {
  const found: string[] = []
  if (saved.model !== now.model) found.push('another model')
  if (saved.images !== now.images) found.push('other images or captions')
  for (const name of new Set([...Object.keys(saved.settings), ...Object.keys(now.settings)])) {
    const [before, after] = [saved.settings[name], now.settings[name]].map((value) => JSON.stringify(value) ?? 'none')
    if (before !== after) found.push(`${name} ${before} instead of ${after}`)
  }
  return found
}

/**
 * Reads a state that a run of this identity, training `count` numbers, can go on from. Throws `STATE_NOT_FOUND`, `STATE_INVALID` (damaged,
 * or no state), `STATE_MISMATCH` (saved by a run of another model, other images or other settings; says which).
 */
export async function readState(path: string, identity: Identity, count: number): Promise<TrainingState> {
  const { about, header } = await readAbout(path)
  const { step, sessionId, startedAt, identity: saved, lossScale, sha256 } = about
  const found = differences(saved, identity)
  if (found.length > 0) {
    const advice = 'resume with what it was trained with, or train anew without resume'
    throw new LorafuseError('STATE_MISMATCH', `Expected a state of this run at ${path} but received one of ${found.join(', ')}; ${advice}`)
  }
  const tensors = await readTensors(path, [...BUFFERS], header).catch((cause: unknown) => {
    throw cause instanceof LorafuseError ? invalid(path, `a damaged file: ${cause.message}`, cause) : cause
  })
  const buffer = (name: (typeof BUFFERS)[number]) => tensors.get(name)?.data ?? new Float32Array(0)
  const buffers: Buffers = { weights: buffer('weights'), firstMoment: buffer('firstMoment'), secondMoment: buffer('secondMoment') }
  if (hash(buffers) !== sha256) throw invalid(path, 'a damaged file: its checksum differs')
  if (buffers.weights.length !== count) throw invalid(path, `${buffers.weights.length} numbers where this run trains ${count}`)
  return { step, run: { sessionId, startedAt }, lossScale, ...buffers }
}

/** Where a checkpoint's state lies: beside it. */
export function statePathOf(path: string): string {
  return path.replace(/\.safetensors$/, '-state.safetensors')
}

interface Found {
  path: string
  about: About
}

/** The states of a name in the order they were saved, and what is wrong with the damaged ones. */
async function list(output: string, name: string): Promise<{ states: Found[]; damaged: LorafuseError[] }> {
  const suffix = /^(-step\d{8,}|-\d{6,})?-state\.safetensors$/
  const files = (await readdir(output)).filter((file) => file.startsWith(name) && suffix.test(file.slice(name.length)))
  const states: Found[] = []
  const damaged: LorafuseError[] = []
  for (const path of files.map((file) => join(output, file))) {
    try {
      states.push({ path, about: (await readAbout(path)).about })
    } catch (error) {
      if (!(error instanceof LorafuseError)) throw error
      damaged.push(error)
    }
  }
  states.sort(({ about: a }, { about: b }) => a.startedAt - b.startedAt || a.step - b.step)
  return { states, damaged }
}

/** The newest state of a name, undefined where there is none. Throws `STATE_INVALID` where one is damaged: it may have been the newest. */
export async function newestState(output: string, name: string): Promise<string | undefined> {
  const { states, damaged } = await list(output, name)
  if (damaged[0]) throw damaged[0]
  return states.at(-1)?.path
}

/** Removes a run's states but the newest two; other runs' stay. */
export async function removeOldStates(output: string, name: string, { sessionId }: RunId): Promise<void> {
  const { states } = await list(output, name)
  const own = states.filter(({ about }) => about.sessionId === sessionId)
  for (const { path } of own.slice(0, -KEPT)) await unlink(path)
}
