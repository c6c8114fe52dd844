/** What a training tells its caller while it runs, and how its caller's errors come back. */
import { printable } from './errors.js'
import type { MemoryPlan } from './native.js'

/** Sent once, before anything is cached: what the training takes, as planned. */
export interface MemoryEvent {
  type: 'memory'
  device: 'cpu' | 'cuda'
  precision: 'f32' | 'fp16' | 'bf16'
  /** As in `start`, as are `memoryOtherwise`, `gradientCheckpointing` and `recomputed`. */
  memory: StartEvent['memory']
  gradientCheckpointing: boolean
  memoryOtherwise: number
  recomputed?: number
}

/** Sent once, before the first step. */
export interface StartEvent {
  type: 'start'
  /** The model's family, what it predicts, and what says so: `SDXL, v-prediction, found by the key v_pred`. */
  model: string
  steps: number
  images: number
  /** The sizes at which they train, and how many do at each, the most first. */
  buckets: { width: number; height: number; images: number }[]
  modules: number
  parameters: number
  /** `host`: bytes of this machine's memory for latents, captions and saving; on the CPU they are part of `total`, on a GPU they are not. */
  memory: MemoryPlan & { host: number }
  /** As the option; `memoryOtherwise`: the total of `memory` were it the other way. */
  gradientCheckpointing: boolean
  memoryOtherwise: number
  /** With `fit`: how many blocks and parts of blocks are computed again; `memoryOtherwise` is without. */
  recomputed?: number
  /** The step a resumed run goes on from; 0 = new. */
  resumedFrom: number
  seed: number
}

/** Something was passed over or looks wrong; the run goes on. */
export interface WarningEvent {
  type: 'warning'
  code: string
  message: string
  path?: string
  /** The files of a warning that is about several, all of them; its `path` is their folder. */
  paths?: string[]
}

/** Sent before files of a model are fetched from the Hugging Face Hub. */
export interface DownloadStartEvent {
  type: 'download-start'
  /** `owner/name`. */
  repository: string
  commit: string
  /** What is not in the cache yet, and how many of the bytes an earlier run has left there. */
  files: number
  bytes: number
  resumedBytes: number
  /** The repository's folder in the cache. */
  folder: string
}

/** Bytes of a model have come, several times a second. */
export interface DownloadEvent {
  type: 'download'
  file: string
  /** Bytes of all files. */
  done: number
  total: number
  /** Over the last seconds. */
  bytesPerSecond: number
  etaSeconds: number
}

/** Latents or text embeddings being computed ahead of training. */
export interface CacheEvent {
  type: 'cache'
  kind: 'latents' | 'text'
  done: number
  total: number
}

/** One optimizer update. */
export interface StepEvent {
  type: 'step'
  /** Counts from 1. */
  step: number
  steps: number
  epoch: number
  /** Mean over the samples of this update. */
  loss: number
  /** Mean over the last epoch's worth of updates, as kohya's `avr_loss`. */
  averageLoss: number
  learningRate: number
  /** Global L2 norm of the gradients before clipping. Not finite: they overflowed in fp16, and the update was left out. */
  gradNorm: number
  stepsPerSecond: number
  etaSeconds: number
  /** Resident memory of the process. */
  memoryBytes: number
}

/** What a group of ops took of a profiled step. */
export interface ProfileRow {
  /** A kind of op, or the path of a layer; empty: ops of no layer. */
  name: string
  count: number
  seconds: number
  /** Of the step's time, 0 to 1. */
  share: number
  flopsPerSecond: number
  bytesPerSecond: number
  /** The time at the speeds that have been measured of this machine over the time taken, 0 to 1 and sometimes more; 0 for the update. */
  ofPeak: number
}

/** With `profile`: one step has been timed, op by op. */
export interface ProfileEvent {
  type: 'profile'
  step: number
  /** The trace that has been written. */
  path: string
  /** Of all its ops and the update. */
  seconds: number
  /** Kinds of ops, those that took longest first, and the ten layers that did. */
  ops: ProfileRow[]
  layers: ProfileRow[]
}

export interface CheckpointEvent {
  type: 'checkpoint'
  step: number
  /** The LoRA file. */
  path: string
  /** The training state beside it, for `resume`. */
  statePath: string
}

export interface DoneEvent {
  type: 'done'
  step: number
  path: string
  seconds: number
}

export type ModelEvent = DownloadStartEvent | DownloadEvent | WarningEvent

/** What `plan` tells. */
export type PlanEvent = ModelEvent

export type TrainEvent = ModelEvent | MemoryEvent | StartEvent | CacheEvent | StepEvent | ProfileEvent | CheckpointEvent | DoneEvent

/** Calls a listener, which may be asynchronous: what it rejects with is thrown by a later call, as if it had been thrown there. */
export class Listener<Event extends { type: string }> {
  private failure: { reason: unknown } | undefined
  private readonly waiting = new Set<Promise<void>>()

  constructor(private readonly onEvent: ((event: Event) => unknown) | undefined) {}

  private check(): void {
    if (this.failure) throw this.failure.reason
  }

  /** Throws what the listener throws, or what it has rejected with. A warning may hold names of files, so it is made printable. */
  emit(event: Event): void {
    this.check()
    const isWarning = event.type === 'warning' && 'message' in event
    const result = this.onEvent?.(isWarning ? { ...event, message: printable(String(event.message)) } : event)
    if (!(typeof result === 'object' && result !== null && 'then' in result)) return
    const settled = Promise.resolve(result)
      .then(
        () => undefined,
        (reason: unknown) => {
          this.failure ??= { reason }
        },
      )
      .finally(() => this.waiting.delete(settled))
    this.waiting.add(settled)
  }

  /** Waits until the listener has done all its work. Throws as `emit`, or the signal's reason: what never ends can be stopped. */
  async settled(signal?: AbortSignal): Promise<void> {
    if (this.waiting.size > 0) {
      await new Promise<void>((resolve, reject) => {
        const stop = () => reject(signal?.reason)
        if (signal?.aborted) stop()
        signal?.addEventListener('abort', stop)
        void Promise.all(this.waiting).then(() => {
          signal?.removeEventListener('abort', stop)
          resolve()
        })
      })
    }
    this.check()
  }
}
