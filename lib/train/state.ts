/** Training states: a session's buffers in f32, and what identifies the run that may continue from them. Everything else is derived. */
import { cut, LorafuseError, listed, shown } from '../errors.js'
import { hashParts } from '../files/hashes.js'
import { isCount, isRecord, type Json, parseRecord } from '../files/json.js'
import { readHeader, readTensors, type SafetensorsHeader, writeSafetensors } from '../files/safetensors.js'
import type { BufferInfo, Session } from '../native.js'
import { asIs, type Label } from '../options/resolve.js'
import type { LossScaleState } from './loss-scale.js'

/** Identifies the model, images and settings that a state was trained with: see `lib/train/identity.ts`. */
export interface Identity {
  /** sha256 of each part of the model. */
  model: Record<string, string>
  /** sha256 of the images' names, sizes, repeats and captions. */
  images: string
  /** sha256 of the images' files, and of the captions' tokens; states before version 3 have neither. */
  contents?: string
  tokens?: string
  /** The options that change the result, as they act. */
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

/** What a state says of itself. */
export interface About extends RunId {
  /** The run's; early states have none. */
  name?: string
  /** Version 1 had neither `writtenAt` nor a checksum of this description; versions 1 and 2 hold an `earlierIdentity`. */
  version: 1 | 2 | typeof VERSION
  step: number
  /** Unix time in seconds; later than that of every state written before it. */
  writtenAt?: number
  identity: Identity
  lossScale?: LossScaleState
  /** Of the buffers. */
  sha256: string
}

const KEY = 'lorafuse_state'
const CHECKSUM = `${KEY}_sha256`
export const WHAT = 'a training state'
export const VERSION = 3
/** How many differences a `STATE_MISMATCH` lists. */
const DIFFERENCES = 3

/** States have an extension of their own, as A1111 and ComfyUI list every .safetensors file in their folders as a LoRA. */
const EXTENSION = '.state'

/** What comes after the name of a run in the names of its states; those of version 0.1.0 ended with `-state.safetensors`. */
export const STATE_SUFFIX = /^(-step\d{8,}|-\d{6,})?(\.state|-state\.safetensors)$/

/** Returns the path of a checkpoint's state, beside the checkpoint. */
export function statePathOf(path: string): string {
  return path.replace(/\.safetensors$/, EXTENSION)
}

function invalid(path: string, problem: string, cause?: unknown): LorafuseError {
  return new LorafuseError('STATE_INVALID', `Expected ${WHAT} at ${path} but received ${problem}`, { cause })
}

/** Lists the buffers that a state holds: all but the gradients, which are zero between updates. */
export function stateBuffers(session: Pick<Session, 'buffers'>): BufferInfo[] {
  return session.buffers().filter(({ name }) => name !== 'gradients')
}

/** Writes a state. `name`, `writtenAt`: see `About`. Throws as `writeAtomically`. */
export async function writeState(
  path: string,
  state: TrainingState,
  { name, writtenAt }: Required<Pick<About, 'name' | 'writtenAt'>>,
): Promise<void> {
  const { step, run, identity, lossScale, buffers } = state
  const about = { version: VERSION, name, step, ...run, writtenAt, identity, lossScale, sha256: await hashParts(Object.values(buffers)) }
  const tensors = Object.entries(buffers).map(([name, data]) => ({ name, dtype: 'F32' as const, shape: [data.length], data }))
  const text = JSON.stringify(about)
  await writeSafetensors(path, tensors, { [KEY]: text, [CHECKSUM]: await hashParts([text]) })
}

const isTime = (value: unknown) => Number.isFinite(value) && (value as number) >= 0
const isText = (value: unknown) => typeof value === 'string'
const isHash = (value: unknown) => isText(value) && /^[0-9a-f]{64}$/.test(value as string)
/** Settings are words, numbers, switches, or lists of them. */
const isSetting = (value: unknown): boolean =>
  Array.isArray(value) ? value.every((each) => !Array.isArray(each) && isSetting(each)) : !isRecord(value)

function isIdentity(value: unknown, version: unknown): boolean {
  if (!isRecord(value)) return false
  const { model, images, contents, tokens, settings } = value
  const isNew = version === VERSION
  const hasModel = isNew ? isRecord(model) && Object.values(model).every(isText) : isText(model)
  const hasContents = [contents, tokens].every((hash) => (isNew ? isText(hash) : hash === undefined))
  return hasModel && hasContents && isText(images) && isRecord(settings) && Object.values(settings).every(isSetting)
}

function isLossScale(value: unknown, step: number): boolean {
  if (value === undefined) return true
  if (!isRecord(value)) return false
  const { value: scale, growing, skipped } = value
  return Number.isFinite(scale) && (scale as number) > 0 && isCount(growing) && isCount(skipped) && (skipped as number) <= step
}

/** Returns the names of what is missing in a description, of another type or out of range. */
function wrongIn(about: Json): string[] {
  const valid = {
    name: about.name === undefined || isText(about.name),
    step: isCount(about.step) && about.step > 0,
    sessionId: isCount(about.sessionId),
    startedAt: isTime(about.startedAt),
    writtenAt: about.version === 1 || isTime(about.writtenAt),
    identity: isIdentity(about.identity, about.version),
    lossScale: isLossScale(about.lossScale, Number(about.step)),
    sha256: isHash(about.sha256),
  }
  return Object.entries(valid).flatMap(([name, good]) => (good ? [] : [name]))
}

/** Reads and checks a state's description. Throws `STATE_NOT_FOUND`, `STATE_INVALID`, `FILE_UNREADABLE`, `TOO_MANY_FILES`. */
export async function readAbout(path: string): Promise<{ about: About; header: SafetensorsHeader }> {
  const header = await readHeader(path, WHAT).catch((cause: unknown) => {
    if (!(cause instanceof LorafuseError)) throw cause
    if (cause.code === 'FILE_NOT_FOUND') throw new LorafuseError('STATE_NOT_FOUND', cause.message, { cause })
    throw cause.code === 'SAFETENSORS_INVALID' ? invalid(path, `a damaged file: ${cause.message}`, cause) : cause
  })
  const text = header.metadata[KEY]
  if (text === undefined) throw invalid(path, `another file; states are named …${EXTENSION}`)
  const about = parseRecord(text)
  if (!about) throw invalid(path, 'a damaged file: its description is no JSON')
  const { version } = about
  const checksum = header.metadata[CHECKSUM]
  if (checksum === undefined ? version === 2 || version === VERSION : checksum !== (await hashParts([text])))
    throw invalid(path, 'a damaged file: the checksum of its description differs')
  if (version !== 1 && version !== 2 && version !== VERSION) throw invalid(path, `version ${shown(version)}; update lorafuse`)
  if (version === 1 && (checksum !== undefined || about.writtenAt !== undefined || path.endsWith(EXTENSION)))
    throw invalid(path, 'a damaged file: its description says version 1, the rest of it a later one')
  const wrong = wrongIn(about)
  if (wrong.length > 0) throw invalid(path, `a damaged file: without valid ${wrong.join(', ')}`)
  const identity = about.identity as Identity & { model: unknown }
  // Versions 1 and 2 know the UNet alone.
  if (isText(identity.model)) identity.model = { unet: String(identity.model) }
  return { about: about as Json & About, header }
}

/** Names the parts that differ. */
function differing(saved: Record<string, string>, now: Record<string, string>): string[] {
  return [...new Set([...Object.keys(saved), ...Object.keys(now)])].filter((part) => saved[part] !== now[part])
}

/** Compares a state's identity with the parts of this run's that are known. Throws `STATE_MISMATCH` with what differs. */
export function checkIdentity(path: string, saved: Identity, now: Partial<Identity>, label: Label = asIs): void {
  const { model, images, contents, tokens, settings } = { ...saved, ...now }
  const found: string[] = []
  const parts = differing(saved.model, model)
  if (parts.length > 0) found.push(`another model (${parts.map((part) => cut(part)).join(', ')})`)
  if (saved.images !== images) found.push('other images or captions')
  else if (saved.contents !== contents) found.push('images of the same names but other contents')
  for (const name of new Set([...Object.keys(saved.settings), ...Object.keys(settings)])) {
    const [before, after] = [saved.settings[name], settings[name]]
    if (JSON.stringify(before) === JSON.stringify(after)) continue
    const [old, current] = [before, after].map((value) => (value === undefined ? 'none' : shown(value)))
    found.push(`${label(cut(name))} ${old} instead of ${current}`)
  }
  // Other captions, or more tokens of them, are other tokens.
  if (found.length === 0 && saved.tokens !== tokens) found.push('another tokenizer')
  if (found.length === 0) return
  const differences = listed(found, ', ', DIFFERENCES)
  const advice = `resume with what it was trained with, or train anew without ${label('resume')}`
  throw new LorafuseError('STATE_MISMATCH', `Expected a state of this run at ${path} but received one of ${differences}; ${advice}`)
}

/**
 * Reads a state, for a run with these buffers and, as far as it is known, the identity `now`. Throws `STATE_NOT_FOUND`,
 * `STATE_INVALID` (damaged, or no state), `STATE_MISMATCH`, `FILE_UNREADABLE`, `TOO_MANY_FILES`.
 */
export async function readState(path: string, now: Partial<Identity>, infos: BufferInfo[], label: Label = asIs): Promise<TrainingState> {
  const { about, header } = await readAbout(path)
  const { step, sessionId, startedAt, identity, lossScale } = about
  checkIdentity(path, identity, now, label)
  const names = infos.map(({ name }) => name)
  const tensors = await readTensors(path, names, header).catch((cause: unknown) => {
    const damaged = cause instanceof LorafuseError && cause.code === 'SAFETENSORS_INVALID'
    throw damaged ? invalid(path, `a damaged file: ${cause.message}`, cause) : cause
  })
  const buffers: Buffers = Object.fromEntries(names.map((name) => [name, tensors.get(name)!.data]))
  if ((await hashParts(Object.values(buffers))) !== about.sha256) throw invalid(path, 'a damaged file: the checksum of its tensors differs')
  for (const { name, count } of infos) {
    const { length } = buffers[name]!
    if (length !== count) throw invalid(path, `${length} numbers of ${name} where this run has ${count}`)
  }
  return { step, run: { sessionId, startedAt }, lossScale, identity, buffers }
}
