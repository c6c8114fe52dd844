/** How much noise each timestep stands for. */
import type { SchedulerConfig } from './configs.js'

type Betas = Pick<SchedulerConfig, 'numTrainTimesteps' | 'betaStart' | 'betaEnd' | 'betaSchedule' | 'rescaleBetasZeroSnr'>

/** Shifts √ᾱ so that the last is 0, and scales it so that the first stays (arXiv:2305.08891, algorithm 1). */
function rescaleZeroSnr(alphas: Float64Array): Float64Array {
  const roots = alphas.map(Math.sqrt)
  const [first = 0, last = 0] = [roots[0], roots.at(-1)]
  return first === last ? alphas : roots.map((root) => (((root - last) * first) / (first - last)) ** 2)
}

/** Returns ᾱ of each timestep, the product of 1 − β up to it (huggingface/diffusers:src/diffusers/schedulers/scheduling_ddpm.py). */
export function alphasCumprod({ numTrainTimesteps, betaStart, betaEnd, betaSchedule, rescaleBetasZeroSnr }: Betas): Float64Array {
  const power = betaSchedule === 'scaled_linear' ? 2 : 1
  const [first, last] = [betaStart ** (1 / power), betaEnd ** (1 / power)]
  const alphas = new Float64Array(numTrainTimesteps)
  let product = 1
  for (let t = 0; t < numTrainTimesteps; t++) {
    const beta = (first + ((last - first) * t) / Math.max(1, numTrainTimesteps - 1)) ** power
    product *= 1 - beta
    alphas[t] = product
  }
  return rescaleBetasZeroSnr ? rescaleZeroSnr(alphas) : alphas
}
