/** `train`: a folder of images in, a LoRA out. Reads and checks everything first, then caches, then trains. */
import { createHash, randomInt } from 'node:crypto'
import { basename } from 'node:path'
import { type Adapter, adapterSpecs, initialAdapters, parameterCount, selectAdapters } from '../adapters/adapters.js'
import { Batches } from '../data/batches.js'
import { selectBucket } from '../data/buckets.js'
import { scanDataset } from '../data/dataset.js'
import { type Computation, computation } from '../device.js'
import { LorafuseError, throwIfAborted } from '../errors.js'
import type { TrainEvent } from '../events.js'
import { legacyHash } from '../files/hashes.js'
import { type Checkpoint, hashUnet, openSession, readCheckpoint } from '../models/diffusers.js'
import { loadTokenizer } from '../models/tokenizer.js'
import type { Session } from '../native.js'
import { fixedOptions, type ResolvedTrainOptions, resolveTrainOptions, type TrainOptions } from '../options/resolve.js'
import { version } from '../version.js'
import { cacheLatents, cacheText, type Picture, type Progress } from './cache.js'
import { LossScale } from './loss-scale.js'
import { Output } from './output.js'
import { type Identity, readState, type TrainingState } from './state.js'
import { type Finished, type TrainContext, Trainer } from './trainer.js'

export type { TrainContext } from './trainer.js'

export interface TrainResult extends Finished {
  /** Wall time of this call. */
  seconds: number
}

/** Checks options that depend on the model. Throws `OPTION_INVALID`. */
function checkOptions({ clipSkip, bucketStep }: ResolvedTrainOptions, { multiple, textEncoder }: Checkpoint): void {
  const layers = textEncoder.config.numHiddenLayers
  const expect = (name: string, expected: string, value: number) =>
    new LorafuseError('OPTION_INVALID', `Expected ${expected} for ${name} with this model but received ${value}`)
  if (clipSkip > layers) throw expect('clipSkip', `at most ${layers}`, clipSkip)
  if (bucketStep % multiple !== 0) throw expect('bucketStep', `a multiple of ${multiple}`, bucketStep)
}

/** What the images are, for a state: names rather than places, so that the folder may move. */
function hashImages(pictures: Picture[]): string {
  const described = pictures.map(({ path, folder, width, height, repeats, caption }) => [
    ...[pictures.every((other) => other.folder === folder) ? '' : folder, basename(path)],
    ...[width, height, repeats, caption],
  ])
  return createHash('sha256').update(JSON.stringify(described)).digest('hex')
}

/** One call of `train`. */
class Run {
  private readonly started = performance.now()

  constructor(
    private readonly options: ResolvedTrainOptions,
    private readonly context: TrainContext,
  ) {}

  private emit(event: TrainEvent): void {
    this.context.onEvent?.(event)
  }

  private async readPictures(): Promise<Picture[]> {
    const { images, captionExtension, strict, resolution, buckets, bucketMin, bucketMax, bucketStep, bucketNoUpscale } = this.options
    const { signal } = this.context
    const { items, warnings } = await scanDataset({
      images,
      strict,
      ...(captionExtension === undefined ? {} : { captionExtension }),
      ...(signal === undefined ? {} : { signal }),
    })
    for (const warning of warnings) this.emit({ type: 'warning', ...warning })
    const rules = { resolution, enabled: buckets, minimum: bucketMin, maximum: bucketMax, step: bucketStep, noUpscale: bucketNoUpscale }
    return items.map((item) => ({ ...item, bucket: selectBucket(item, rules) }))
  }

  private batches(pictures: Picture[]): Batches {
    const buckets = new Map<string, number[]>()
    for (const [index, { bucket, repeats }] of pictures.entries()) {
      const size = `${bucket.width}x${bucket.height}`
      const images = buckets.get(size) ?? []
      for (let i = 0; i < repeats; i++) images.push(index)
      buckets.set(size, images)
    }
    return new Batches([...buckets.values()], this.options)
  }

  /** The state to start from: a saved one, or fresh adapters. */
  private async firstState(output: Output, adapters: Adapter[], identity: Identity): Promise<TrainingState> {
    const { resume, seed } = this.options
    const path = resume === true ? await output.newestState() : resume
    if (path) return readState(path, identity, parameterCount(adapters))
    if (resume === true) {
      const message = `Expected a state of ${this.options.name} in ${this.options.output} to resume from but received none; training starts anew`
      this.emit({ type: 'warning', code: 'NO_STATE', message })
    }
    const weights = initialAdapters(adapters, seed)
    const zeros = () => new Float32Array(weights.length)
    const run = { sessionId: randomInt(2 ** 32), startedAt: Date.now() / 1000 }
    return { step: 0, run, weights, firstMoment: zeros(), secondMoment: zeros(), lossScale: undefined }
  }

  private progress(kind: 'latents' | 'text'): Progress {
    return (done, total) => {
      throwIfAborted(this.context.signal, 'The training')
      this.emit({ type: 'cache', kind, done, total })
    }
  }

  private async trainer(session: Session, chosen: Computation, checkpoint: Checkpoint, pictures: Picture[]): Promise<Trainer> {
    const { options, context } = this
    const adapters = selectAdapters(session.modules(), options.targets, options.rank, options.alpha)
    const output = new Output(options, adapters)
    await output.prepare()
    const batches = this.batches(pictures)
    const steps = options.epochs === undefined ? options.steps : options.epochs * batches.updatesPerEpoch
    const hash = await hashUnet(checkpoint)
    const identity = { model: hash, images: hashImages(pictures), settings: fixedOptions(options) }
    const state = await this.firstState(output, adapters, identity)
    if (state.step > steps) {
      throw new LorafuseError('STATE_MISMATCH', `Expected a state of at most ${steps} steps but received one of ${state.step}; raise steps`)
    }
    const tokenizer = await loadTokenizer(checkpoint.tokenizerFolder)
    const captions = pictures.map(({ caption }) => caption)
    const texts = await cacheText(session, tokenizer, captions, options.clipSkip - 1, this.progress('text'))
    const { factor, scalingFactor } = checkpoint
    const latents = await cacheLatents(session, pictures, { ...options, factor, scalingFactor }, this.progress('latents'))
    session.attach(adapterSpecs(adapters))
    session.writeAdapters('weights', state.weights)
    session.writeAdapters('firstMoment', state.firstMoment)
    session.writeAdapters('secondMoment', state.secondMoment)
    const { updatesPerEpoch, batchesPerEpoch } = batches
    const unetPath = checkpoint.unet.files[0]?.path as string
    const model = { name: checkpoint.name, hash, legacyHash: await legacyHash(unetPath) }
    const facts = {
      options,
      precision: chosen.precision,
      pictures,
      run: state.run,
      steps,
      batchesPerEpoch,
      updatesPerEpoch,
      model,
      version: version(),
    }
    const samples = pictures.map(({ caption }, i) => ({ latents: latents[i]!, context: texts.get(caption)! }))
    const { scheduler } = checkpoint
    const { length: tokens } = tokenizer
    const lossScale = LossScale.of(chosen, state.lossScale)
    return new Trainer(
      { session, samples, tokens, batches, adapters, output, identity, facts, scheduler, lossScale, from: state.step },
      context,
    )
  }

  async train(): Promise<TrainResult> {
    const { options } = this
    throwIfAborted(this.context.signal, 'The training')
    const checkpoint = await readCheckpoint(options.model)
    checkOptions(options, checkpoint)
    const pictures = await this.readPictures()
    const chosen = computation(options)
    const session = openSession(checkpoint, chosen)
    try {
      const trainer = await this.trainer(session, chosen, checkpoint, pictures)
      const finished = await trainer.train()
      const seconds = (performance.now() - this.started) / 1000
      this.emit({ type: 'done', step: finished.step, path: finished.path, seconds })
      return { ...finished, seconds }
    } finally {
      session.dispose()
    }
  }
}

/**
 * Trains a LoRA. Resolves once its file is written; rejects with one of the documented codes, or, once `signal` aborts, with an error
 * named `AbortError` after the step in hand, its state saved (before the first step nothing is). Throws `OPTION_REQUIRED`,
 * `OPTION_INVALID`, `OPTION_UNKNOWN`, what reading the model and the images throws, `RANK_TOO_LARGE`, `OUTPUT_NOT_WRITABLE`, `DISK_FULL`,
 * `STATE_NOT_FOUND`, `STATE_INVALID`, `STATE_MISMATCH`, `NAN_LATENTS`, `NAN_LOSS`.
 */
export async function train(input: TrainOptions, context: TrainContext = {}): Promise<TrainResult> {
  return runTraining(resolveTrainOptions(input), context)
}

/** Trains with options that have been checked. */
export async function runTraining(options: ResolvedTrainOptions, context: TrainContext): Promise<TrainResult> {
  try {
    return await new Run(options, context).train()
  } catch (error) {
    // Whatever stopped because of the signal, a scan for example, ends the same way.
    if (context.signal?.aborted && error === context.signal.reason) throwIfAborted(context.signal, 'The training')
    throw error
  }
}
