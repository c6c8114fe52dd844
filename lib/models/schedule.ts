/** How much noise a timestep stands for, and how the learning rate changes; both pure. */
import type { SchedulerConfig } from './configs.js'

type Betas = Pick<SchedulerConfig, 'numTrainTimesteps' | 'betaStart' | 'betaEnd' | 'betaSchedule'>

/** ᾱ of each timestep: the product of 1 − β up to it (huggingface/diffusers:src/diffusers/schedulers/scheduling_ddpm.py). */
export function alphasCumprod({ numTrainTimesteps, betaStart, betaEnd, betaSchedule }: Betas): Float64Array {
  const power = betaSchedule === 'scaled_linear' ? 2 : 1
  const [first, last] = [betaStart ** (1 / power), betaEnd ** (1 / power)]
  const alphas = new Float64Array(numTrainTimesteps)
  let product = 1
  for (let t = 0; t < numTrainTimesteps; t++) {
    const beta = (first + ((last - first) * t) / Math.max(1, numTrainTimesteps - 1)) ** power
    product *= 1 - beta
    alphas[t] = product
  }
  return alphas
}

export interface LearningRate {
  learningRate: number
  lrScheduler: 'constant' | 'cosine'
  lrWarmupSteps: number
}

/**
 * The learning rate of update `step`, counted from 1, of `steps` (huggingface/diffusers:src/diffusers/optimization.py). As there, a warm-up
 * begins with an update at rate 0.
 */
export function learningRateAt(step: number, steps: number, { learningRate, lrScheduler, lrWarmupSteps }: LearningRate): number {
  const done = step - 1
  if (done < lrWarmupSteps) return (learningRate * done) / lrWarmupSteps
  if (lrScheduler === 'constant') return learningRate
  const progress = (done - lrWarmupSteps) / Math.max(1, steps - lrWarmupSteps)
  return learningRate * Math.max(0, (1 + Math.cos(Math.PI * progress)) / 2)
}
