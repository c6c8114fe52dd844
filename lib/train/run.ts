/** `train`: a folder of images in, a LoRA out. Reads, plans and checks everything first, then caches, then trains. */
import { randomInt } from 'node:crypto'
import { type Adapters, adapterCount, initialWeights, parameterCount } from '../adapters/adapter.js'
import { scanDataset } from '../data/dataset.js'
import { counted } from '../data/skipped.js'
import { threadWarnings } from '../device.js'
import { LorafuseError, rejecting, throwIfAborted } from '../errors.js'
import { Listener, type TrainEvent } from '../events.js'
import { overwrittenSince } from '../files/stamp.js'
import { lazyHashes, loraPrefixes, type Model, openSession } from '../models/model.js'
import { readModel } from '../models/read.js'
import { contextLength, type EncodedText, mostTokens } from '../models/text.js'
import type { Session } from '../native.js'
import { asIs, type Label, type ResolvedTrainOptions, resolveTrainOptions, type TrainOptions } from '../options/resolve.js'
import { turns } from '../turns.js'
import { type CaptionTokens, cacheLatents, cacheText, type OnProgress, tokenizeCaptions } from './cache.js'
import { captionWarnings } from './captions.js'
import { earlierIdentityOf, hashModel, identityOf, type Made } from './identity.js'
import { imagesMetadata } from './images-metadata.js'
import { StepInputs } from './inputs.js'
import { LossScale } from './loss-scale.js'
import { planMemory } from './memory.js'
import type { FileHashes } from './metadata.js'
import { OutputFolder } from './output.js'
import { checkOptions, optimizer, setUp } from './setup.js'
import { checkIdentity, readAbout, readState, stateBuffers, type TrainingState, VERSION } from './state.js'
import { stateToResume } from './states.js'
import { type Finished, type TrainContext, Trainer } from './trainer.js'
import {
  assignBuckets,
  bucketCounts,
  decodable,
  hashContents,
  hashImages,
  makeBatches,
  stepsOf,
  type TrainingImage,
} from './training-images.js'

export interface TrainResult extends Finished {
  /** Wall time of this call. */
  seconds: number
}

async function fileHashes({ hash, legacyHash }: Pick<Model, 'hash' | 'legacyHash'>, signal: AbortSignal): Promise<FileHashes> {
  return { hash: await hash(signal), legacyHash: await legacyHash(signal) }
}

/** A state to continue from, and its path. */
type Resumed = Omit<TrainingState, 'buffers'> & { path: string }

/** Puts the weights that a run begins with into the session. */
async function writeInitial(session: Session, adapters: Adapters, seed: number, signal: AbortSignal): Promise<void> {
  session.write('weights', await initialWeights(adapters, seed, turns(signal)))
}

/** One call of `train`. */
export class Training {
  private readonly started = performance.now()
  private readonly ended = new AbortController()
  /** Stops reading, when the training is stopped or has failed. */
  private readonly signal: AbortSignal
  private readonly listener: Listener<TrainEvent>
  /** See `hashModel`. */
  private hashes: Promise<Record<string, string>> | undefined

  /** `open` is replaced in tests. */
  constructor(
    private readonly options: ResolvedTrainOptions,
    private readonly context: TrainContext,
    private readonly label: Label = asIs,
    private readonly open: typeof openSession = openSession,
  ) {
    this.signal = AbortSignal.any([this.ended.signal, ...(context.signal ? [context.signal] : [])])
    this.listener = new Listener(context.onEvent)
  }

  private emit(event: TrainEvent): void {
    this.listener.emit(event)
  }

  /** Hashes the model's parts once. */
  private async partHashes(model: Model): Promise<Record<string, string>> {
    this.hashes ??= hashModel(model, this.signal)
    return this.hashes
  }

  /**
   * Reads the state to resume from, checks that this run may continue from it, and puts its buffers into the session. Nothing but the adapters
   * holds those then.
   */
  private async readResumed(session: Session, found: TrainingImage[], made: Made): Promise<Resumed | undefined> {
    const { resume, output, name } = this.options
    const path = await stateToResume(this.options, this.label)
    if (path) {
      const { about } = await readAbout(path)
      const same = (await hashImages(found, this.signal)) === about.identity.images
      // The images of a state are those that can be decoded.
      const images = same ? found : await decodable(found, this.options, this.signal)
      const now = await (about.version === VERSION ? identityOf : earlierIdentityOf)(made, images)
      const { buffers, ...state } = await readState(path, now, stateBuffers(session), this.label)
      const steps = stepsOf(makeBatches(images, this.options), this.options)
      for (const [name, data] of Object.entries(buffers)) session.write(name, data)
      if (state.step <= steps) return { ...state, path }
      const message = `Expected a state of at most ${counted(steps, 'step')} but received one of ${state.step}; raise ${this.label('steps')}`
      throw new LorafuseError('STATE_MISMATCH', message)
    }
    if (resume === true) {
      const message = `Expected a state of ${name} in ${output} to resume from but received none; training starts anew`
      this.emit({ type: 'warning', code: 'NO_STATE', message })
    }
    return undefined
  }

  private progress(kind: 'latents' | 'text'): OnProgress {
    return (done, total) => {
      throwIfAborted(this.context.signal, 'The training')
      this.emit({ type: 'cache', kind, done, total })
    }
  }

  /** Caches images and captions, while weights and files are hashed. Captions that steps encode are not encoded before. */
  private async cache(session: Session, found: TrainingImage[], made: Made & { model: Model }, trainsText: boolean) {
    const { options, signal } = this
    const { model, tokens, files } = made
    const vae = options.vae === undefined ? undefined : model.networks[model.family.vae]!.files.map(({ path }) => path)
    const hashing = Promise.all([
      fileHashes(model, signal),
      vae && fileHashes(lazyHashes(vae), signal),
      // For the identity, which holds them.
      made.hashes(),
      hashContents(found, files, signal),
    ])
    // Awaited after the caching; until then its rejection must not count as unhandled.
    hashing.catch(() => undefined)
    const texts = trainsText ? undefined : await this.encodeCaptions(model, session, tokens)
    const { images, latents } = await cacheLatents(session, model, found, options, this.progress('latents'), (warning) =>
      this.emit({ type: 'warning', ...warning }),
    )
    const samples = images.map(({ caption }, i) => ({
      ...{ latents: latents[i]!, text: texts?.get(caption) },
      ids: trainsText ? tokens.get(caption)!.ids : undefined,
    }))
    // Of the images that train, so after all that can be skipped has been.
    const most = mostTokens(model.tokenizers[model.family.text[0]!.network]!, options)
    for (const warning of captionWarnings(images, options.images, tokens, most)) this.emit({ type: 'warning', ...warning })
    const [hashes, vaeHashes] = await hashing
    return { images, samples, hashes, vaeHashes }
  }

  private async encodeCaptions(model: Model, session: Session, tokens: CaptionTokens): Promise<Map<string, EncodedText>> {
    return cacheText(session, model, tokens, this.options, this.progress('text'))
  }

  async train(): Promise<TrainResult> {
    const finished = await this.run()
    const seconds = (performance.now() - this.started) / 1000
    // Memory and name are given back by now: the listener may train again, or take its time.
    this.emit({ type: 'done', step: finished.step, path: finished.path, seconds })
    await this.listener.settled(this.context.signal)
    return { ...finished, seconds }
  }

  private async run(): Promise<Finished> {
    const { options } = this
    const { signal } = this.context
    throwIfAborted(signal, 'The training')
    const model = await readModel(options.model, options, { signal, onEvent: (event) => this.emit(event) })
    checkOptions(options, model, this.label)
    const { items, warnings } = await scanDataset(options, this.signal)
    for (const warning of warnings) this.emit({ type: 'warning', ...warning })
    const setup = setUp(model, options, this.label, this.open)
    const { chosen, parts, lastTextStep, session, adapters, buffers } = setup
    const trainsText = lastTextStep > 0
    let output: OutputFolder | undefined
    try {
      for (const warning of threadWarnings(options.threads, session)) this.emit(warning)
      const trained = parts.flatMap(({ network }) => model.networks[network]!.files.map(({ path }) => path))
      const overwritten = await overwrittenSince(trained)
      const planned = await planMemory({ ...setup, model, items, label: this.label, signal: this.signal }, options)
      const memory = {
        ...{ memory: planned.memory, memoryOtherwise: planned.otherwise, gradientCheckpointing: options.gradientCheckpointing },
        ...(planned.recomputed !== undefined && { recomputed: planned.recomputed }),
      }
      output = new OutputFolder(options, adapters, loraPrefixes(model.family, model.networks))
      await output.prepare(buffers, this.signal)
      const found = await assignBuckets(items, options, this.signal)
      const tokens = await tokenizeCaptions(model, found, options, this.signal)
      const files = new Map<string, string>()
      const made = {
        options,
        model,
        hashes: () => this.partHashes(model),
        tokens,
        files,
        parts,
        precision: chosen.precision,
        signal: this.signal,
      }
      const resumed = await this.readResumed(session, found, made)
      this.emit({ type: 'memory', device: chosen.device, precision: chosen.precision, ...memory })
      const { images, samples, ...hashes } = await this.cache(session, found, made, trainsText)
      const identity = await identityOf(made, images)
      // An image may have been damaged since the state was checked.
      if (resumed) checkIdentity(resumed.path, resumed.identity, { images: identity.images }, this.label)
      const batches = makeBatches(images, options)
      const steps = stepsOf(batches, options)
      const from = resumed?.step ?? 0
      if (!resumed) await writeInitial(session, adapters, options.seed, this.signal)
      const encode = async () => {
        const texts = await this.encodeCaptions(model, session, tokens)
        return images.map(({ caption }) => texts.get(caption)!)
      }
      const sizes = { ...model, contextLength: contextLength(model, options) }
      const inputs = new StepInputs({ ...options, samples, batches, model: sizes, lastTextStep, encode })
      if (from < steps) await session.prepare(inputs.shapesOf((await batches.of(from + 1))[0]!, from + 1))
      const run = resumed?.run ?? { sessionId: randomInt(2 ** 32), startedAt: Date.now() / 1000 }
      const described = await imagesMetadata(images, options, this.signal)
      const info = { options, precision: chosen.precision, optimizer, images: described, run, steps, batches, model, ...hashes }
      const lossScale = new LossScale(chosen, resumed?.lossScale)
      const [modules, parameters] = [adapterCount(adapters), parameterCount(adapters.parameters)]
      this.emit({
        ...{ type: 'start', model: model.foundBy, steps, images: images.length, buckets: bucketCounts(images), modules, parameters },
        ...{ ...memory, resumedFrom: from, seed: options.seed },
      })
      const trainer = new Trainer(
        { session, batches, inputs, parts, lastTextStep, output, info, identity, lossScale, from, overwritten },
        { signal, onEvent: (event) => this.emit(event) },
      )
      return await trainer.train()
    } finally {
      this.ended.abort()
      session.dispose()
      await output?.close()
    }
  }
}

/**
 * Trains a LoRA. Resolves once its file is written; rejects with one of the documented codes or, once `signal` aborts, with an error named
 * `AbortError` after the current step, whose state is saved (before the first step there is none). Throws `OPTION_REQUIRED`,
 * `OPTION_INVALID`, `OPTION_UNKNOWN`, what reading the model and the images throws, `RANK_TOO_LARGE`, `OUT_OF_MEMORY`,
 * `OUTPUT_NOT_WRITABLE`, `OUTPUT_LOCKED`, `DISK_FULL`, `STATE_NOT_FOUND`, `STATE_INVALID`, `STATE_MISMATCH`, `NAN_LATENTS`, `NAN_LOSS`.
 */
export async function train(input: TrainOptions, context: TrainContext = {}): Promise<TrainResult> {
  return runTraining(resolveTrainOptions(input), context)
}

/** Trains with options that have been checked. */
export async function runTraining(options: ResolvedTrainOptions, context: TrainContext, label: Label = asIs): Promise<TrainResult> {
  return rejecting(new Training(options, context, label).train(), context.signal, 'The training')
}
