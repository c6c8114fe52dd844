/** How much noise each timestep stands for. */
import type { SchedulerConfig } from './configs.js'

type Betas = Pick<SchedulerConfig, 'numTrainTimesteps' | 'betaStart' | 'betaEnd' | 'betaSchedule'>

/** Returns ᾱ of each timestep, the product of 1 − β up to it (huggingface/diffusers:src/diffusers/schedulers/scheduling_ddpm.py). */
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
