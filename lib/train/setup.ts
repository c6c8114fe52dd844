/** How a training and its plan begin: a session with its adapters attached, and no weights loaded. */
import { type Adapters, attachAdapters } from '../adapters/adapter.js'
import { lora } from '../adapters/lora.js'
import { type Asked, type Computation, computation } from '../device.js'
import { type Model, openSession } from '../models/model.js'
import type { BufferInfo, Session } from '../native.js'
import { invalidOption, type Label, type ResolvedTrainOptions } from '../options/resolve.js'
import { optimizers } from './optimizers.js'
import { bytesToSave } from './output.js'
import { lastTextStep, type TrainedPart, textEncoders, trainedParts } from './parts.js'
import { stateBuffers } from './state.js'

export const optimizer = optimizers.adamw

/** Checks options that depend on the model. Throws `OPTION_INVALID`. */
export function checkOptions({ clipSkip, bucketStep }: ResolvedTrainOptions, { multiple, mostClipSkip }: Model, label: Label): void {
  if (clipSkip > mostClipSkip) throw invalidOption(`at most ${mostClipSkip}`, `${label('clipSkip')} with this model`, clipSkip)
  if (bucketStep % multiple !== 0) throw invalidOption(`a multiple of ${multiple}`, `${label('bucketStep')} with this model`, bucketStep)
}

export interface Setup {
  chosen: Computation
  parts: TrainedPart[]
  /** See `lastTextStep`. */
  lastTextStep: number
  /** Whoever set it up disposes of it. */
  session: Session
  adapters: Adapters
  /** Those that a state holds. */
  buffers: BufferInfo[]
  /** Bytes of this machine's memory that saving needs. */
  saving: number
}

/** Opens a session and attaches the adapters. `open` is replaced in tests. Throws as `trainedParts`, `openSession` and `attachAdapters`. */
export function setUp(model: Model, options: ResolvedTrainOptions & Asked, label: Label, open = openSession): Setup {
  const chosen = computation(options)
  const parts = trainedParts(options, model.family, label)
  const textUntil = lastTextStep(parts, options)
  const text = textUntil > 0 ? textEncoders(model, options) : []
  const session = open(model, { ...chosen, text, recompute: options.gradientCheckpointing })
  try {
    const adapters = attachAdapters(session, lora, parts, options, optimizer.spec, label)
    const buffers = stateBuffers(session)
    return { chosen, parts, lastTextStep: textUntil, session, adapters, buffers, saving: bytesToSave(buffers, adapters, options) }
  } catch (error) {
    session.dispose()
    throw error
  }
}
