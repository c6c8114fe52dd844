/** Makes the inputs of training steps: noise and timesteps as in kohya-ss/sd-scripts:train_network.py, drawn from (seed, step, sample). */
import type { Batch, Batches } from '../data/batches.js'
import type { Model } from '../models/model.js'
import { type EncodedText, join, type TextIds, TIME_IDS, textIdsInputs, textIdsShapes, textInputs, timeIds } from '../models/text.js'
import type { Inputs } from '../native.js'
import type { ResolvedTrainOptions } from '../options/resolve.js'
import { integer, normal } from '../random.js'
import type { Latents } from './cache.js'
import { objectives } from './objective.js'

/** A cached image with its caption: encoded, or as ids, for steps that encode it. */
export interface Sample {
  latents: Latents
  text: EncodedText | undefined
  ids?: TextIds | undefined
}

/** The sizes that all steps of a run have in common; `contextLength` counts the tokens of a context. */
export type StepSizes = Pick<Model, 'latentChannels' | 'contextDim' | 'pooledDim' | 'timeIds'> & { contextLength: number }

/**
 * Returns the shapes of a step's inputs, named as the native side's graph declares them. `height` and `width` count latents. `text`: those of
 * a step that encodes its text.
 */
export function stepShapes(sizes: StepSizes, n: number, height: number, width: number, text?: Record<string, number[]>): StepShapes {
  const { latentChannels, contextDim, contextLength, pooledDim, timeIds } = sizes
  const latents = [n, height, width, latentChannels]
  const [coefficients, timesteps] = [[n, 2], [n]]
  return {
    ...{ latents, noise: latents, coefficients, target_coefficients: coefficients, timesteps },
    ...(text ?? { context: [n, contextLength, contextDim], ...(pooledDim > 0 && { pooled: [n, pooledDim] }) }),
    ...(timeIds && { time_ids: [n, TIME_IDS] }),
  }
}

type StepShapes = Record<'latents' | 'noise' | 'coefficients' | 'target_coefficients' | 'timesteps', number[]> & Record<string, number[]>

/** Decides whether sample `index` of an update is mirrored. */
export function isMirrored(seed: number, step: number, index: number): boolean {
  return integer({ seed, stream: 'flip', step, index }, 2) === 1
}

export interface StepInputsOptions extends Pick<ResolvedTrainOptions, 'seed' | 'flip' | 'maxTokenLength'> {
  samples: Sample[]
  batches: Batches
  model: StepSizes & Pick<Model, 'scheduler' | 'family' | 'tokenizers'>
  /** The last update whose steps encode their text; 0 where none does. */
  lastTextStep: number
  /** Encodes the captions of all samples, after that update. */
  encode: () => Promise<EncodedText[]>
}

export class StepInputs {
  private readonly levels: Float64Array

  constructor(private readonly options: StepInputsOptions) {
    const { scheduler } = options.model
    this.levels = objectives[scheduler.predictionType].levels(scheduler)
  }

  /** Returns the shapes of a batch of update `step`. */
  shapesOf(batch: Batch, step: number): StepShapes {
    const { samples, model, lastTextStep } = this.options
    const { height, width } = samples[batch[0]!]!.latents
    const text = step <= lastTextStep ? textIdsShapes(model, batch.length, this.options) : undefined
    return stepShapes(model, batch.length, height, width, text)
  }

  /** The captions are encoded once when their encoders are trained no more; the session does that after the steps it was given. */
  private async encodeOnce(): Promise<void> {
    const { samples, encode } = this.options
    if (samples.every(({ text }) => text)) return
    for (const [i, text] of (await encode()).entries()) samples[i]!.text = text
  }

  /** Makes the inputs of a batch; `offset` counts the samples of update `step` before it. */
  private of(batch: Batch, step: number, offset: number): Inputs {
    const { samples, model, seed, flip, lastTextStep } = this.options
    const chosen = batch.map((i) => samples[i]!)
    const place = (i: number) => ({ seed, step, index: offset + i })
    const side = (i: number) => (flip && isMirrored(seed, step, offset + i) ? 'mirrored' : 'plain')
    const latents = join(chosen.map(({ latents }, i) => latents[side(i)]!))
    const timesteps = batch.map((_, i) => integer({ ...place(i), stream: 'timesteps' }, this.levels.length))
    const coefficients = timesteps.map((t) => objectives[model.scheduler.predictionType].coefficients(this.levels[t]!))
    const noise = batch.map((_, i) => normal({ ...place(i), stream: 'noise' }, latents.length / batch.length))
    const shapes = this.shapesOf(batch, step)
    return {
      latents: { shape: shapes.latents, data: latents },
      noise: { shape: shapes.noise, data: join(noise) },
      coefficients: { shape: shapes.coefficients, data: Float32Array.from(coefficients.flatMap(({ noisy }) => noisy)) },
      target_coefficients: { shape: shapes.target_coefficients, data: Float32Array.from(coefficients.flatMap(({ target }) => target)) },
      timesteps: { shape: shapes.timesteps, data: Float32Array.from(timesteps) },
      ...(step <= lastTextStep
        ? textIdsInputs(
            model,
            chosen.map(({ ids }) => ids!),
            this.options,
          )
        : textInputs(
            model,
            chosen.map(({ text }) => text!),
          )),
      ...(shapes.time_ids && {
        time_ids: { shape: shapes.time_ids, data: join(chosen.map(({ latents: { sizes } }, i) => timeIds(sizes[side(i)]!))) },
      }),
    }
  }

  /** Makes the inputs of updates `first` to `last`, batch by batch. */
  async *range(first: number, last: number): AsyncGenerator<Inputs> {
    for (let step = first; step <= last; step++) {
      let count = 0
      if (step > this.options.lastTextStep) await this.encodeOnce()
      for (const batch of await this.options.batches.of(step)) {
        yield this.of(batch, step, count)
        count += batch.length
      }
    }
  }
}
