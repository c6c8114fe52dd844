/** Makes the inputs of training steps: noise and timesteps as in kohya-ss/sd-scripts:train_network.py, drawn from (seed, step, sample). */
import type { Batch, Batches } from '../data/batches.js'
import type { Model } from '../models/model.js'
import { type EncodedText, join, TIME_IDS, textInputs, timeIds } from '../models/text.js'
import type { Inputs } from '../native.js'
import type { ResolvedTrainOptions } from '../options/resolve.js'
import { integer, normal } from '../random.js'
import type { Latents } from './cache.js'
import { objectives } from './objective.js'

/** A cached image with its encoded caption. */
export interface Sample {
  latents: Latents
  text: EncodedText
}

/** The sizes that all steps of a run have in common; `contextLength` counts the tokens of a context. */
export type StepSizes = Pick<Model, 'latentChannels' | 'contextDim' | 'pooledDim' | 'timeIds'> & { contextLength: number }

/** Returns the shapes of a step's inputs, named as the native side's graph declares them. `height` and `width` count latents. */
export function stepShapes(sizes: StepSizes, n: number, height: number, width: number): StepShapes {
  const { latentChannels, contextDim, contextLength, pooledDim, timeIds } = sizes
  const latents = [n, height, width, latentChannels]
  const [coefficients, timesteps, context] = [[n, 2], [n], [n, contextLength, contextDim]]
  return {
    ...{ latents, noise: latents, coefficients, target_coefficients: coefficients, timesteps, context },
    ...(pooledDim > 0 && { pooled: [n, pooledDim] }),
    ...(timeIds && { time_ids: [n, TIME_IDS] }),
  }
}

type StepShapes = Record<'latents' | 'noise' | 'coefficients' | 'target_coefficients' | 'timesteps' | 'context', number[]> & {
  pooled?: number[]
  time_ids?: number[]
}

/** Decides whether sample `index` of an update is mirrored. */
export function isMirrored(seed: number, step: number, index: number): boolean {
  return integer({ seed, stream: 'flip', step, index }, 2) === 1
}

export interface StepInputsOptions extends Pick<ResolvedTrainOptions, 'seed' | 'flip'> {
  samples: Sample[]
  batches: Batches
  model: StepSizes & Pick<Model, 'scheduler'>
}

export class StepInputs {
  private readonly levels: Float64Array

  constructor(private readonly options: StepInputsOptions) {
    const { scheduler } = options.model
    this.levels = objectives[scheduler.predictionType].levels(scheduler)
  }

  shapesOf(batch: Batch): StepShapes {
    const { height, width } = this.options.samples[batch[0]!]!.latents
    return stepShapes(this.options.model, batch.length, height, width)
  }

  /** Makes the inputs of a batch; `offset` counts the samples of update `step` before it. */
  private of(batch: Batch, step: number, offset: number): Inputs {
    const { samples, model, seed, flip } = this.options
    const chosen = batch.map((i) => samples[i]!)
    const place = (i: number) => ({ seed, step, index: offset + i })
    const side = (i: number) => (flip && isMirrored(seed, step, offset + i) ? 'mirrored' : 'plain')
    const latents = join(chosen.map(({ latents }, i) => latents[side(i)]!))
    const timesteps = batch.map((_, i) => integer({ ...place(i), stream: 'timesteps' }, this.levels.length))
    const coefficients = timesteps.map((t) => objectives[model.scheduler.predictionType].coefficients(this.levels[t]!))
    const noise = batch.map((_, i) => normal({ ...place(i), stream: 'noise' }, latents.length / batch.length))
    const shapes = this.shapesOf(batch)
    return {
      latents: { shape: shapes.latents, data: latents },
      noise: { shape: shapes.noise, data: join(noise) },
      coefficients: { shape: shapes.coefficients, data: Float32Array.from(coefficients.flatMap(({ noisy }) => noisy)) },
      target_coefficients: { shape: shapes.target_coefficients, data: Float32Array.from(coefficients.flatMap(({ target }) => target)) },
      timesteps: { shape: shapes.timesteps, data: Float32Array.from(timesteps) },
      ...textInputs(
        model,
        chosen.map(({ text }) => text),
      ),
      ...(shapes.time_ids && {
        time_ids: { shape: shapes.time_ids, data: join(chosen.map(({ latents: { sizes } }, i) => timeIds(sizes[side(i)]!))) },
      }),
    }
  }

  /** Makes the inputs of updates `first` to `last`, batch by batch. */
  async *range(first: number, last: number): AsyncGenerator<Inputs> {
    for (let step = first; step <= last; step++) {
      let count = 0
      for (const batch of await this.options.batches.of(step)) {
        yield this.of(batch, step, count)
        count += batch.length
      }
    }
  }
}
